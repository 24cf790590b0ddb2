"""The questions, in rooms: a file without underscore in a room is an analysis, its name the analysis' name."""

from __future__ import annotations

from pathlib import Path

SHARED = ("common", "look", "metrics")  # rooms without a question of their own


def find_analyses() -> dict[str, str]:
    """Name -> module of every analysis, by name; none is imported."""
    rooms = [room for room in Path(__file__).parent.iterdir() if room.is_dir() and room.name not in SHARED]
    files = [file for room in rooms for file in room.glob("*.py") if not file.name.startswith("_")]
    return {
        file.stem: f"{__name__}.{file.parent.name}.{file.stem}" for file in sorted(files, key=lambda file: file.stem)
    }
