"""Forwards watched and changed, layer by layer."""
