"""A table on a page: the largest values first, headings in words, what all rows share said once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from ..figures.drawing import matching
from .glossary import heading

ROWS = 10  # shown; the downloads hold them all
LONG = 120  # characters of a cell
CARDED = ("neurons", "cards", "contexts", "ngrams")  # tables of neurons that have cards
TOLD = ["subject", "task", "analysis"]  # said once on the page, not in every row
PICTURE = re.compile(r"(data:image/|iVBORw0KGgo|/9j/)[\w+/=;:,.-]{60,}")


def table_block(
    name: str, table: pd.DataFrame, where: Mapping[str, Any] | None = None, limit: int = ROWS
) -> dict[str, Any]:
    """What the template needs: the `limit` rows with the largest |value| among those that meet `where`.

    shared: (heading, text) of columns with one value in all these rows; they have no column of their own.
    """
    rows = matching(table, where or {})
    cards = _cards(rows) if name in CARDED else None
    rows = rows.drop(columns=[c for c in rows if c in TOLD or _is_picture(rows[c])])
    rows = _largest_first(rows)
    same = [c for c in rows if len(rows) > 1 and c != "value" and _same(rows[c])]
    shared = [(heading(c), _cell(rows[c].iloc[0])["text"]) for c in same]
    shown = rows.drop(columns=same)
    cells = [[_cell(value) for value in row] for row in shown.head(limit).itertuples(index=False, name=None)]
    if cards is not None and "neuron" in shown:
        for row, href in zip(cells, cards[shown.head(limit).index], strict=True):
            row[list(shown).index("neuron")]["href"] = href
    return {
        "name": name,
        "title": heading(name),
        "columns": [heading(c) for c in shown],
        "rows": cells,
        "shared": [(title, text) for title, text in shared if text not in ("", "–")],
        "count": len(rows),
        "all": len(table),
    }


def _cards(rows: pd.DataFrame) -> pd.Series | None:
    """The address of each row's neuron card."""
    if not {"subject", "layer", "neuron"} <= set(rows):
        return None
    place = rows["layer"].astype(int).astype(str) + "." + rows["neuron"].astype(int).astype(str)
    return "neuron.html#" + rows["subject"].map(lambda name: quote(str(name), safe="")) + "/" + place


def _largest_first(rows: pd.DataFrame) -> pd.DataFrame:
    if "value" not in rows or not pd.api.types.is_numeric_dtype(rows["value"]):
        return rows
    return rows.loc[rows["value"].abs().sort_values(ascending=False, kind="stable", na_position="last").index]


def _same(column: pd.Series) -> bool:
    """Whether every cell is the first one, or all are missing."""
    first = column.iloc[0]
    return bool(column.isna().all() or (column.astype(object) == first).all())


def _is_picture(column: pd.Series) -> bool:
    first = next((value for value in column.dropna().head(20) if value), None)
    return isinstance(first, str) and bool(PICTURE.match(first))


def _cell(value: Any) -> dict[str, Any]:
    """The text of a cell, and its number to sort by where it is one, in six digits."""
    if isinstance(value, str):
        return {"text": value if len(value) <= LONG else f"{value[:LONG]}…", "number": None}
    if isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_)):
        known = math.isfinite(float(value))
        return {"text": short(value), "number": f"{value:.6g}" if known else ""}
    return {"text": "–" if value is None or value is pd.NaT else str(value)[:LONG], "number": None}


def short(value: Any) -> str:
    """A number with three digits: "0.0214", "24,900", "2.0e-06"; "–" where it is missing."""
    if value is None or pd.isna(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}" if abs(value) < 1e7 else f"{value:.2e}"
    return f"{value:.3g}"
