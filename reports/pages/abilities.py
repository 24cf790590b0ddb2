"""What a model can do, as far as the runs have measured it: its accuracy at each task, beside guessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from .runs import Run
from .tables import short

TABLES = ("task", "accuracy")
MEASURES = ("accuracy among the options", "pair accuracy", "accuracy", "valid accuracy", "top-1 accuracy", "top1")
FEW = 8  # abilities named for a model


def models(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each model once: name, its record, runs, and (task, "0.94 [0.89, 1]", "guessing 0.5") of what was measured."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.model, str(run.record["subject"].get("fingerprint"))), []).append(run)
    return [_model(name, mine) for (name, _), mine in sorted(found.items())]


def _model(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    told: dict[str, tuple[str, str, str]] = {}
    # A card measures each kind of question on many prompts: it speaks first.
    for run in sorted(runs, key=lambda run: "card" not in str(run.record["analysis"])):
        for ability in _abilities(run):
            told.setdefault(ability[0], ability)
    return {"name": name, "subject": runs[0].record["subject"], "runs": len(runs), "can": list(told.values())[:FEW]}


def _abilities(run: Run) -> Iterator[tuple[str, str, str]]:
    table = next((run.tables[name] for name in TABLES if name in run.tables), None)
    if table is None or "value" not in table:
        return
    rows = _plain(table)
    title = str(run.record["task"].get("title") or run.record["task"].get("name"))
    if "kind" in rows:
        for kind, part in rows.groupby("kind", sort=False):
            yield f"{title}, {str(kind).replace('_', ' ')}", _value(part.iloc[0]), ""
        return
    measured = [m for m in MEASURES if "measure" in rows and (rows["measure"] == m).any()]
    if measured:
        row = rows[rows["measure"] == measured[0]].iloc[0]
        yield title, _value(row), _guessing(table, measured[0])


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of no control, of all examples, of clear pictures: what is measured and nothing else."""
    for column, value in (("control", ""), ("subset", "all"), ("difficulty", "clear")):
        if column in table and (table[column].fillna("") == value).any():
            table = table[table[column].fillna("") == value]
    return table[pd.to_numeric(table["value"], errors="coerce").notna()]


def _guessing(table: pd.DataFrame, measure: str) -> str:
    if "control" not in table:
        return ""
    rows = table[(table["measure"] == measure) & (table["control"] == "guessing")]
    return f"guessing {short(rows['value'].iloc[0])}" if len(rows) else ""


def _value(row: pd.Series) -> str:
    """The share and its interval. Student's interval of a few groups may reach beyond 1 or below 0, where no share can
    be: what lies there is left out, and the interval still holds the true share as often.
    """
    low, high = (min(max(end, 0.0), 1.0) if pd.notna(end) else end for end in (row.get("lower"), row.get("upper")))
    return short(row["value"]) + ("" if pd.isna(low) or pd.isna(high) else f" [{short(low)}, {short(high)}]")
