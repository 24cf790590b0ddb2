"""Examples as batches: tokens, roles, marks, images."""
