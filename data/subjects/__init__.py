"""The embedded models: what they are made of, and the directories that they are opened from."""
