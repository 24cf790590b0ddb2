"""The pages: one a run, the gallery, the claims, the heads, runs side by side."""
