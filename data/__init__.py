"""What goes in: tasks (one small file each) and the embedded models."""
