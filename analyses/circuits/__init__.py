"""Which heads and MLPs do a task, and what tasks share."""
