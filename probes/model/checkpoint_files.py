"""The small files of a checkpoint, in a directory or on the hub."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME
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


def weight_bytes(path: str, revision: str | None, item: int | None, packed: float | None = None) -> int:
    """What the weights of a checkpoint take in memory, from the headers of its files alone; 0 where nothing is told.

    item: bytes of a number, None for as many as in the files; packed: the same of linear layers' weights, None where
    they are not packed. Of a hub id its index tells, if there is one.
    """
    if not Path(path).is_dir():
        return int(settings_in(path, SAFE_WEIGHTS_INDEX_NAME, revision).get("metadata", {}).get("total_size", 0))
    tensors = [one for file in Path(path).glob("*.safetensors") for one in _header(file).items()]
    return int(sum(_bytes(name, told, item, packed) for name, told in tensors if name != "__metadata__"))


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return json.loads(stream.read(int.from_bytes(stream.read(8), "little")))


def _bytes(name: str, told: dict[str, Any], item: int | None, packed: float | None) -> float:
    begin, end = told["data_offsets"]
    linear = packed is not None and len(told["shape"]) == 2 and not any(part in name for part in ("embed", "head"))
    each = packed if linear else item
    return end - begin if each is None else prod(told["shape"]) * each
