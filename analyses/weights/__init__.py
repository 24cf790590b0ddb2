"""What the weights say: heads that read each other, ranks, positions, keys."""
