"""Models that are steered: what edits of their attention or states do to a task, beside controls."""
