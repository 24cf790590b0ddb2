"""A model with its insides exposed: its parts, its attention, its weights."""
