"""Along which edges an answer travels, and which heads read the image."""
