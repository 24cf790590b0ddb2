"""From examples to tables on disk: planned, killed, resumed, verified, joined."""
