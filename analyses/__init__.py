"""The questions: one file per analysis, on pure metrics and statistics."""
