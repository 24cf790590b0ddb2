"""A run made of finished runs: their tables in, tables and a record out, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from ..data.example import UserError
from . import store
from .judged import judged
from .verify import open_run


def finished(out: Path, analysis: str) -> list[Path]:
    """The complete runs of an analysis under `out`, for each subject and task the one with most examples."""
    best: dict[tuple[str, str], tuple[int, Path]] = {}
    for path in sorted((out / "runs").glob(f"{analysis}.*")):
        record = store.read_record(path)
        if record and record.get("status") == "complete":
            place, n = (record["subject"]["fingerprint"], label(record)), record["task"]["n"]
            best[place] = max(best.get(place, (0, path)), (n, path))
    return [path for _, path in best.values()]


def label(record: Mapping[str, Any]) -> str:
    """A task with the options it was asked for: "colored_objects shots=2"."""
    options = record["task"]["options"]
    return " ".join([record["task"]["name"], *(f"{k}={v}" for k, v in sorted(options.items()))])


def join(runs: Sequence[Path], name: str, module: ModuleType, options: Any, out: Path, command: str) -> Path:
    """Tables of several runs of `module.JOINS` through `module.tables`, as a run directory of its own; returns it.

    UserError: fewer than two runs, runs of another analysis, of two subjects, or twice of one task.
    """
    records = [open_run(path) for path in runs]
    _check(runs, records, module.JOINS)
    key = store.key_of(
        {"analysis": name, "REVISION": module.REVISION, "options": asdict(options), "of": [r["key"] for r in records]}
    )
    subject = records[0]["subject"]
    labels = [label(record) for record in records]
    place = store.safe_name(f"{name}.{subject['name']}.{'+'.join(labels)}"[:110], also="+=")
    directory = out / "runs" / f"{place}.{key[:8]}"
    with store.locked(directory):
        tables = module.tables({n: _tables(p, r) for n, p, r in zip(labels, runs, records, strict=True)}, options)
        tables["claims"] = judged(module, tables, records[0]["conditions"])
        for table in tables.values():
            leading = {"subject": subject["name"], "task": " + ".join(labels), "analysis": name}
            for at, (column, value) in enumerate(leading.items()):
                table.insert(at, column, value)
        for table_name, table in tables.items():
            store.write_table(directory / "tables" / f"{table_name}.parquet", table)
        store.write_record(directory, _record(records, name, module, options, key, directory, sorted(tables), command))
    return directory


def _check(runs: Sequence[Path], records: Sequence[Mapping[str, Any]], joins: str) -> None:
    if len(records) < 2:
        raise UserError(f"{len(records)} run(s) of {joins}: an overlap needs two, on two tasks (crosslens run {joins})")
    for path, record in zip(runs, records, strict=True):
        if record["analysis"] != joins:
            raise UserError(f"{path} is a run of {record['analysis']}, runs of {joins} are needed")
        if record["subject"]["fingerprint"] != records[0]["subject"]["fingerprint"]:
            raise UserError(f"{path} and {runs[0]} are runs of two subjects: their heads cannot be compared")
    labels = [label(record) for record in records]
    if twice := next((name for name in labels if labels.count(name) > 1), None):
        raise UserError(f"two of the runs are of task {twice}: name one for each task")


def _tables(path: Path, record: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    return {name: store.read_table(path / "tables" / f"{name}.parquet") for name in record["tables"]}


def _record(
    records: Sequence[Mapping[str, Any]],
    name: str,
    module: ModuleType,
    options: Any,
    key: str,
    directory: Path,
    tables: list[str],
    command: str,
) -> dict[str, Any]:
    tasks = [record["task"] for record in records]
    names = " + ".join(label(record) for record in records)
    return {
        "schema": 1,
        "name": directory.name,
        "key": key,
        "status": "complete",
        "analysis": name,
        "title": (module.__doc__ or name).strip().splitlines()[0],
        "question": module.QUESTION,
        "paper": module.PAPER,
        "methods": module.methods(options, {"examples": 0, "groups": 0}),
        "subject": records[0]["subject"],
        "task": {"name": names, "title": names, "n": min(t["n"] for t in tasks), "source": "the runs named below"}
        | {"n_groups": min(t["n_groups"] for t in tasks), "options": {}},
        "conditions": records[0]["conditions"],
        "options": asdict(options),
        "versions": records[0]["versions"] | {"analysis": module.REVISION},
        "joined": [record["name"] for record in records],
        "command": command,
        "tables": tables,
        "notes": [
            f"{label(r)}: n = {r['task']['n']} in {r['task']['n_groups']} groups, run {r['name']}" for r in records
        ],
    }
