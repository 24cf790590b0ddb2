"""The pages: one a run, the gallery, the claims, the dictionary of heads."""
