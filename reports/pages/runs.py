"""Run directories, read with care: a page shows what is inside one, and nothing from outside."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from ...data.errors import ReportError

Made = TypeVar("Made")
SCHEMA = 1
NAME = re.compile(r"\w[\w.+=-]*")
RESERVED = {"index", "claims", "glossary", "head", "neuron", "plotly.min"}  # pages of the gallery itself
TEXTS = ("analysis", "title")
PARTS = ("subject", "task", "options", "versions")


@dataclass(frozen=True, eq=False)
class Run:
    """One complete run: its record, its tables, and the tables' files as they were read."""

    name: str
    record: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    files: dict[str, bytes]

    @property
    def title(self) -> str:
        """The title of the analysis, without the full stop of a docstring."""
        return str(self.record["title"]).removesuffix(".")

    @property
    def headline(self) -> str:
        """What the run found, in one sentence; the title of its analysis where it says nothing."""
        return str(self.findings[0]["text"]) if self.findings else self.title

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.record["subject"].get("name", "?"))

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Rows of the table of claims: text, source, numbers, verdict."""
        return self._said("claims", "text", "verdict")

    @property
    def findings(self) -> list[dict[str, Any]]:
        """Rows of the table of findings, best first: text, figure, state, rank, …; none in runs of older versions."""
        return self._said("findings", "text", "state")

    def _said(self, name: str, *needed: str) -> list[dict[str, Any]]:
        table = self.tables.get(name)
        if table is None or not set(needed) <= set(table):
            return []
        return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def read_runs(directory: Path) -> tuple[list[Run], list[str]]:
    """Every complete run under `directory` by name, and a line about each directory that is none."""
    if not directory.is_dir():
        raise ReportError(f"no runs at {directory}: start one with `crosslens run`, or name the right --out")
    runs, notes = [], []
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            runs.append(read_run(path))
        except ReportError as error:
            notes.append(f"{path.name}: {error}")
    return runs, notes


def by_model(runs: Sequence[Run], make: Callable[[str, list[Run]], Made | None]) -> list[Made]:
    """What `make(key, runs of one model)` gives, models by name; without those of which it gives None.

    Two models of one name are told apart by their weights: "smollm2", "smollm2@1f2e3d4c".
    """
    by_weights: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        subject = run.record["subject"]
        by_weights.setdefault((str(subject.get("name")), str(subject.get("fingerprint"))), []).append(run)
    found: dict[str, Made] = {}
    for (name, fingerprint), mine in sorted(by_weights.items(), key=lambda item: item[0]):
        key = name if name not in found else f"{name}@{fingerprint[:8]}"
        made = make(key, mine)
        if made is not None:
            found[key] = made
    return [*found.values()]


def read_run(path: Path) -> Run:
    """The run in directory `path`; ReportError where it is incomplete, unreadable or reaches outside."""
    if not NAME.fullmatch(path.name) or path.name in RESERVED:
        raise ReportError("not a run: its name cannot be the name of a page")
    if path.is_symlink() or not path.is_dir():
        raise ReportError("not a run directory")
    record = _record(path)
    files = {}
    for file in sorted((path / "tables").glob("*.parquet")):
        if not NAME.fullmatch(file.stem):
            raise ReportError("a table's name cannot be the name of a file to download")
        files[file.stem] = _inside(path, file)
    return Run(path.name, record, {name: _table(name, data) for name, data in files.items()}, files)


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_inside(path, path / "record.json"))
    except ValueError as error:
        raise ReportError(f"record.json cannot be read ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ReportError(f"record.json is not of schema {SCHEMA}: run the analysis again")
    if record.get("status") != "complete":
        raise ReportError("not complete: repeat its command to finish it")
    if not all(isinstance(record.get(name), str) for name in TEXTS):
        raise ReportError(f"record.json lacks one of {', '.join(TEXTS)}")
    if not all(isinstance(record.get(name), dict) for name in PARTS):
        raise ReportError(f"record.json lacks one of {', '.join(PARTS)}")
    return record


def _table(name: str, data: bytes) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # pyarrow raises many kinds; the page must survive each
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ReportError(f"table {name} cannot be read ({first[:120]})") from None


def _inside(run: Path, file: Path) -> bytes:
    """The bytes of a file that lies in the run directory, links followed."""
    try:
        if not file.resolve(strict=True).is_relative_to(run.resolve(strict=True)):
            raise ReportError(f"{file.name} is a link that leaves the run directory")
        return file.read_bytes()
    except FileNotFoundError:
        raise ReportError(f"{file.name} is missing") from None
    except (OSError, RuntimeError) as error:
        raise ReportError(f"{file.name} cannot be read ({error.__class__.__name__})") from None
