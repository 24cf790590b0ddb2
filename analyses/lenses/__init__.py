"""What states, heads and images say in words."""
