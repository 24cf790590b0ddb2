"""Exposing models: load, expose, edit, sweep, run."""

VERSION = 3  # bumped when a number that this room produces changes
