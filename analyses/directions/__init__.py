"""Directions that steer: learned from examples, added to states or taken out of them."""
