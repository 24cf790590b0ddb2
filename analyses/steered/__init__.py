"""Steering: spans that count for more, directions that are added or taken away."""
