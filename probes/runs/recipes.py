"""Recipes: the runs that a paper's figures need, and which of them lie finished in a directory. No torch, no model."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...data.errors import UserError

Record = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One TOML of `analyses/recipes/`.

    runs: for each an analysis, its `task`, `limit` … as on the command line, and its `options`; an analysis that is
    made of finished runs names itself alone. figures: in the paper's order, for each the analysis (`run`), the name of
    the figure on its page and what it shows. states: what the paper says; differs: what is not reproduced, or
    otherwise.
    """

    name: str
    title: str
    paper: str = ""
    states: str = ""
    differs: str = ""
    runs: tuple[Mapping[str, Any], ...] = ()
    figures: tuple[Mapping[str, str], ...] = ()


def read_recipes(directory: Path) -> dict[str, Recipe]:
    """Every recipe by name."""
    return {path.stem: _read(path) for path in sorted(directory.glob("*.toml"))}


def _read(path: Path) -> Recipe:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        lists: dict[str, Any] = {name: tuple(content.pop(name, ())) for name in ("runs", "figures")}
        return Recipe(path.stem, **content, **lists)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise UserError(f"recipe {path.name} cannot be read: {error}") from error


def finished_records(out: Path) -> list[Record]:
    """The records of complete runs in `out` that were made with the packages of today."""
    return [record for record in records_in(out) if record.get("status") == "complete" and _is_current(record)]


def records_in(out: Path) -> Iterator[Record]:
    """The records of all runs in `out`, their names among them."""
    for path in sorted((out / "runs").glob("*/record.json")):
        try:
            yield read_record(path.parent)
        except ValueError:  # half a record is no finished run; running it says what is wrong with it
            continue


def read_record(directory: Path) -> Record:
    """The record of a run, its seal not looked at. ValueError: not a record."""
    record = json.loads((directory / "record.json").read_text("utf-8"))
    if not isinstance(record, dict):
        raise ValueError(f"{directory} has no record")
    return record | {"name": directory.name}


def _is_current(record: Record) -> bool:
    """Whether the packages have the versions that the run had."""
    ours = ("python", "analysis", "probes")
    return all(_version(name) == was for name, was in record.get("versions", {}).items() if name not in ours)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def find_run(records: list[Record], asked: Mapping[str, Any]) -> Record | None:
    """The record that agrees with everything in `asked`, the last of several.

    asked: dotted name in the record -> value: {"task.name": "ioi", "limit": 32}. What a record lacks is None.
    """
    wanted = json.loads(json.dumps(dict(asked)))
    return next((r for r in reversed(records) if all(_at(r, name) == value for name, value in wanted.items())), None)


def _at(record: Any, name: str) -> Any:
    for part in name.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record
