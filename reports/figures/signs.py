"""One sign on every page: what an edit takes away from the answer is above 0, helps is positive."""

from __future__ import annotations

import pandas as pd

WRITTEN, ATTENTION = "direct logit attribution", "attention on "
# The tables whose values say what an edit did, below 0 where the answer needed what it took.
EDITED = {
    "circuits": ("effects", "circuit", "stability"),
    "edges": ("into", "edges"),
    "faithfulness": ("effects", "positions"),
    "information_flow": ("flows", "stages"),
    "overlap": ("maps", "scatter"),
    "recall": ("heads",),
}


def turned(rows: pd.DataFrame, which: pd.Series | bool = True) -> pd.DataFrame:
    """What an edit takes away, as a number above 0: these rows with the opposite sign. Helps is positive."""
    sign = pd.Series(which, rows.index).map({True: -1.0, False: 1.0})
    known = {"lower", "upper"} <= set(rows)
    ends = [("lower", "upper"), ("upper", "lower")] if known else []
    flipped = {a: rows[a].where(sign > 0, -rows[b]) for a, b in ends}
    return rows.assign(value=rows["value"] * sign, **flipped)


def helps(rows: pd.DataFrame) -> pd.DataFrame:
    """Effects as what the edit takes away, so that helps is above 0; what is written has that sign already, and
    attention has none.
    """
    measure = rows["measure"].astype(str) if "measure" in rows else pd.Series("", rows.index)
    return turned(rows, ~(measure.eq(WRITTEN) | measure.str.startswith(ATTENTION)))


def edited(analysis: str, table: str) -> bool:
    """Whether this table says what an edit did."""
    return table in EDITED.get(analysis, ())


def as_help(analysis: str, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table of a run as its page shows it: turned where its values say what an edit did."""
    numbers = "value" in table and pd.api.types.is_numeric_dtype(table["value"])
    return helps(table) if edited(analysis, name) and numbers else table
