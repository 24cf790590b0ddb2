"""What a subject can do."""
