"""A file an analysis: the figures of its tables."""
