"""What a model is called: by its own name, not by the place where it lies."""

from __future__ import annotations

from pathlib import Path


def name_of(where: str) -> str:
    """A directory's or file's own name ("/models/tiny" -> "tiny", "tiny.gguf" -> "tiny"); others as they are."""
    path = Path(where).expanduser()
    if where and path.exists():
        return path.stem if path.is_file() else path.resolve().name
    return where


def location_of(where: str) -> str | None:
    """The whole path of a local model, None of a hub id."""
    path = Path(where).expanduser()
    return str(path.resolve()) if where and path.exists() else None
