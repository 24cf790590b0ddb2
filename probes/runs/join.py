"""A run made of finished runs: their tables in, tables and a record out, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from ...data.errors import UserError
from . import store
from .contract import check
from .judged import rows_of, said_of
from .results import How
from .tables import of_condition
from .verify import open_run


def finished(out: Path, analysis: str) -> list[Path]:
    """The complete runs of an analysis under `out`, for each subject and task the one with most examples.

    UserError: runs of one task that differ in more than their number of examples.
    """
    several: dict[tuple[str, str], list[tuple[int, Path, dict[str, Any]]]] = {}
    for path in sorted((out / "runs").glob(f"{analysis}.*")):
        record = store.read_record(path)
        if record and record.get("status") == "complete":
            of = (record["subject"]["fingerprint"], label(record))
            several.setdefault(of, []).append((record["task"]["n"], path, record))
    for (_, task), runs in several.items():
        differing = _differing([record for *_, record in runs], (*SETTINGS, "seed", "conditions"))
        if differing:
            names = "; ".join(f"{_said(_setting(record, differing))}: {path}" for _, path, record in runs)
            raise UserError(f"{len(runs)} runs of {analysis} on {task} differ in {differing} ({names}): name the runs")
    return [max(runs, key=lambda one: one[:2])[1] for runs in several.values()]


# What runs that are joined have in common, besides subject and condition.
SETTINGS = ("template", "options", "dtype", "own answers")


def _setting(record: Mapping[str, Any], name: str) -> Any:
    task = record["task"]
    return {
        "template": task["template"],
        "seed": task["seed"],
        "own answers": task.get("own_answer_tokens", 0),
        "options": record["options"],
        "dtype": record["subject"]["dtype"],
        "conditions": record["conditions"],
    }[name]


def _differing(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The first setting that is not the same in all records, "" where all are."""
    return next((n for n in names if any(_setting(r, n) != _setting(records[0], n) for r in records)), "")


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return " and ".join(value) if isinstance(value, list) else str(value)


def label(record: Mapping[str, Any]) -> str:
    """A task with the options it was asked for: "colored_objects shots=2"."""
    options = record["task"]["options"]
    return " ".join([record["task"]["name"], *(f"{k}={v}" for k, v in sorted(options.items()))])


def labels_apart(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same without the options that all of them have: "scenes", "scenes form=words"."""
    options = [record["task"]["options"].items() for record in records]
    common = [item for item in options[0] if all(item in of for of in options)] if len(records) > 1 else []
    tasks = [
        record["task"] | {"options": {k: v for k, v in of if (k, v) not in common}}
        for record, of in zip(records, options, strict=True)
    ]
    return [label({"task": task}) for task in tasks]


def join(
    runs: Sequence[Path],
    name: str,
    module: ModuleType,
    options: Any,
    out: Path,
    command: str,
    condition: str | None = None,
) -> Path:
    """Tables of several runs of `module.NEEDS` through `module.TABLES`, as a run directory of its own; returns it.

    A maker is given {task: its run's tables} of one condition; a task's name leaves out the options that all have.

    condition: "BOS" or "no BOS"; None for the one that all runs have. UserError: fewer than two runs, runs of another
    analysis, of two subjects, twice of one task, or that differ in template, options, dtype or condition.
    """
    records = [open_run(path) for path in runs]
    check(name, module)
    _check(runs, records, module.NEEDS)
    condition = _common_condition(records, condition)
    # VERSION was named REVISION when the first of these runs were made; their keys stay.
    named = {"REVISION": module.VERSION, "options": asdict(options), "condition": condition}
    key = store.key_of({"analysis": name, **named, "of": [r["key"] for r in records]})
    subject = records[0]["subject"]
    labels = [label(record) for record in records]
    place = store.safe_name(f"{name}.{subject['name']}.{'+'.join(labels)}"[:110], also="+=")
    directory = out / "runs" / f"{place}.{key[:8]}"
    with store.locked(directory):
        names = labels_apart(records)
        parts = {n: rows_of(_tables(p, r), condition) for n, p, r in zip(names, runs, records, strict=True)}
        tables = of_condition(module, parts, How(options), condition)
        tables |= said_of(module, tables, [condition])
        for table in tables.values():
            leading = {"subject": subject["name"], "task": " + ".join(labels), "analysis": name}
            for at, (column, value) in enumerate(leading.items()):
                table.insert(at, column, value)
        for table_name, table in tables.items():
            store.write_table(directory / "tables" / f"{table_name}.parquet", table)
        record = _record(records, name, module, options, key, directory, sorted(tables), command)
        store.write_record(directory, record | {"conditions": [condition]})
    return directory


def _common_condition(records: Sequence[Mapping[str, Any]], asked: str | None) -> str:
    """The condition that all runs have. UserError: none, or several of which none is asked for."""
    common = [name for name in records[0]["conditions"] if all(name in record["conditions"] for record in records)]
    if asked is None and len(common) == 1:
        return common[0]
    if asked is not None and asked in common:
        return asked
    each = "; ".join(f"{record['name']}: {' and '.join(record['conditions'])}" for record in records)
    if asked is None and common:
        raise UserError(f"the runs have several conditions ({each}): choose one, --bos yes or --bos no")
    raise UserError(f"not all of the runs have {asked or 'the same condition'} ({each}): run them alike first")


def _check(runs: Sequence[Path], records: Sequence[Mapping[str, Any]], needed: Sequence[str]) -> None:
    joins = " or ".join(needed)
    if len(records) < 2:
        raise UserError(f"{len(records)} run(s) of {joins}: an overlap needs two, on two tasks (crosslens run {joins})")
    for path, record in zip(runs, records, strict=True):
        if record["analysis"] not in needed:
            raise UserError(f"{path} is a run of {record['analysis']}, runs of {joins} are needed")
        if record["analysis"] != (first := records[0]["analysis"]):
            raise UserError(f"{path} is a run of {record['analysis']}, {runs[0]} of {first}: name runs of one")
        if record["subject"]["fingerprint"] != records[0]["subject"]["fingerprint"]:
            raise UserError(f"{path} and {runs[0]} are runs of two subjects: their heads cannot be compared")
    if differing := _differing(records, SETTINGS):
        each = "; ".join(f"{record['name']}: {_said(_setting(record, differing))}" for record in records)
        raise UserError(f"the runs differ in {differing} ({each}): run them alike, or name others")
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
        "methods": module.methods(options, None, {"examples": 0, "groups": 0}),
        "subject": records[0]["subject"],
        "task": {
            "name": names,
            "title": names.replace("_", " "),
            "n": min(t["n"] for t in tasks),
            "source": "the runs named below",
            "template": tasks[0]["template"],
        }
        | {"n_groups": min(t["n_groups"] for t in tasks), "options": {}},
        "options": asdict(options),
        "versions": records[0]["versions"] | {"analysis": module.VERSION},
        "joined": [record["name"] for record in records],
        "command": command,
        "tables": tables,
        "notes": [
            f"{label(r).replace('_', ' ')}: n = {t['n']} in {t['n_groups']} groups, seed {t['seed']}, run {r['name']}"
            for r, t in zip(records, tasks, strict=True)
        ]
        + [note for note in records[0]["notes"] if all(note in r["notes"] for r in records)],
    }
