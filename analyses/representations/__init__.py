"""What states hold: what can be read from them, layer by layer."""
