"""Exposing models: load, expose, edit, sweep, run."""

VERSION = 1  # bumped when a number that this room produces changes
