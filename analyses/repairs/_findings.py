"""What `repairs` found in this model: whether each repair changes what it promises, beside its random control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, rows_with, say
from ._claims import SOURCES, untestable
from ._tables import LEAD, NONE

MEASURES = {"accuracy": "above", "CHAIR_I": "below"}  # which side is better
WORDS = {"accuracy": "accuracy", "CHAIR_I": "the share of object words that are made up (CHAIR_I)"}
Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Each repair at its first strength, on the measure that the task has."""
    found = rows_with(tables.get("differences"), subset="all", control="")
    measures = [measure for measure in MEASURES if measure in set(found.get("measure", ()))]
    return [one for measure in measures for repair in SOURCES if (one := _repaired(tables, found, repair, measure))]


def _repaired(tables: Tables, found: pd.DataFrame, repair: str, measure: str) -> Finding | None:
    mine = rows_with(found, repair=repair, measure=measure)
    if mine.empty:
        return None
    first = mine[mine["setting"] == mine["setting"].iloc[0]]
    row = one_row(first, against="plain")
    random = next((name for name in first["against"] if str(name).startswith("random")), "")
    plain = one_row(tables.get("measures"), repair=NONE, measure=measure, subset="all")
    better = row is not None and (row["value"] > 0) == (MEASURES[measure] == "above")
    moved = "{what} changes from {plain:.1%} by {value:+.1%} {span:+.1%}"
    moved += ", {control} changes it by {beside:+.1%}" if random else ""
    moved += "; n = {n:.0f} shows no change below {detectable:.1%}"
    still = row is not None and row["value"] == row["lower"] == row["upper"] == 0
    unseen = "{repair} changed no answer of {n:.0f}: what changes less than {detectable:.1%} is not seen"
    left = unseen if still else moved
    ahead, words = _ahead(found, repair, random) if measure == "accuracy" else ("", {})
    return say(
        f"{{repair}} {'helps' if better else 'harms'}: {moved}{ahead}",
        f"{left}{ahead}" if still else f"It is not shown that {{repair}} helps: {left}{ahead}",
        row,
        about=f"what {repair} does",
        figure="differences",
        margin=one_row(first, against=random) if random else None,
        control=random,
        untestable=untestable(repair, tables.get("preconditions")),
        repair=repair,
        what=WORDS[measure],
        plain=float("nan") if plain is None else float(plain["value"]),
        detectable=float("nan") if row is None else float(row["detectable"]),
        **words,
    )


def _ahead(found: pd.DataFrame, repair: str, random: str) -> tuple[str, dict[str, Any]]:
    """How far the right answer's lead moves, which it does where no answer changes: a sentence and its fields; "" where
    no logits are read.
    """
    mine = rows_with(found, repair=repair, measure=LEAD)
    first = mine if mine.empty else mine[mine["setting"] == mine["setting"].iloc[0]]
    row, margin = one_row(first, against="plain"), one_row(first, against=random)
    if row is None:
        return "", {}
    words = {f"lead_{name}": float(row[name]) for name in ("value", "lower", "upper")}
    said = ". The lead of the right answer moves by {lead_value:+.2f} logits [{lead_lower:+.2f}, {lead_upper:+.2f}]"
    if margin is None:
        return said, words
    return said + ", {lead_beside:+.2f} with {control}", words | {"lead_beside": float(row["value"] - margin["value"])}
