"""The embedded models: what they are made of, and the directories that they are opened from."""

# Embedded subject -> its module here; what it is made of is the module's first line.
EMBEDDED = {"smollm2": "smollm2", "scenes": "scenes_model", "scenes_prior": "scenes_prior"}
