"""The small files of a checkpoint, in a directory or on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

PROBLEMS = ("missing_entries", "connection_errors", "gated_repo")


def settings_in(path: str, file: str, revision: str | None = None) -> dict[str, Any]:
    """What a JSON file of the checkpoint at `path` (directory or hub id) says; empty where it has none."""
    place = file_in(path, file, revision)
    return json.loads(place.read_text("utf-8")) if place else {}


def file_in(path: str, file: str, revision: str | None = None) -> Path | None:
    """Where a file of the checkpoint lies on this machine, fetched from the hub if it must be; None: it has none."""
    quiet = {f"_raise_exceptions_for_{problem}": False for problem in PROBLEMS}
    place = cached_file(path, file, revision=revision, **quiet)
    return Path(place) if place else None
