"""The figures of an analysis that has no module of its own: read off the columns of its tables."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, head_map, heat_map, lines, sample
from .drawing import MAIN, OPEN

KNOWN = {"subject", "task", "analysis", "unit", "measure", "control", "n", "n_groups"}
FEW = 14  # lines in one figure: seven colours, two dashes


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, go.Figure]:
    """A head map for layer, head, value; lines for state (or layer), value; nothing for other tables."""
    drawn = {}
    for name, table in tables.items():
        for measure, rows in _measures(table):
            figure = None if name == "claims" or rows.empty else _figure(rows)
            if figure is not None:
                title = (f"{name}: {measure}" if measure else name).replace("_", " ")
                told = {
                    "seen": f"Column value of table {name.replace('_', ' ')}.",
                    "sample": sample(rows, "Bands" if figure[1] else ""),
                }
                where = {"measure": measure} if measure else {}
                key = f"{name}-{measure}" if measure else name
                theme = MAIN if len(drawn) < OPEN else "more"
                caption = " ".join(part for part in told.values() if part)
                drawn[key] = captioned(figure[0], title, caption, name, where, theme=theme, **told)
    return drawn


def _measures(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    if "measure" not in table:
        yield "", table
        return
    for measure, rows in table.groupby("measure", sort=False):
        yield str(measure), rows


def _figure(rows: pd.DataFrame) -> tuple[go.Figure, bool] | None:
    """The figure, and whether it shows intervals; None where the columns do not tell the rows apart."""
    depth = next((c for c in ("state", "layer") if c in rows and rows[c].notna().all()), None)
    if depth is None or "value" not in rows or not pd.api.types.is_numeric_dtype(rows["value"]):
        return None
    if {"layer", "head"} <= set(rows) and bool(rows["head"].notna().all()):
        signed = bool((rows["value"] < 0).any())
        named = _named(rows, ["layer", "head"], [])
        return None if named is None else (head_map(named, signed=signed, panel="series"), False)
    named = _named(rows, [depth], ["control"])
    if named is not None and named["series"].nunique() <= FEW:
        return lines(named, depth, by="series"), True
    named = _named(rows, [depth], [])
    return None if named is None else (heat_map(named, depth, "series").update_yaxes(title_text=""), False)


def _named(rows: pd.DataFrame, place: list[str], known: list[str]) -> pd.DataFrame | None:
    """A column `series` from the fewest columns, texts before numbers, that tell rows in one place apart."""
    if "control" in rows and "control" not in known:
        control = "control: " + rows["control"].fillna("").astype(str)
        rows = rows.assign(control_name=control.where(control != "control: ", ""))
    own = [str(c) for c in rows if c not in {*KNOWN, *place} and rows[c].nunique() > 1]
    texts = [c for c in own if _is_text(rows[c])]
    numbers = [c for c in own if pd.api.types.is_integer_dtype(rows[c])]
    fixed = [*place, *(c for c in known if c in rows)]
    for count in range(len(numbers) + 1):
        chosen = texts + numbers[:count]
        if not rows.duplicated(fixed + chosen).any():
            return rows.assign(series=_joined(rows, chosen))
    return None


def _joined(rows: pd.DataFrame, columns: list[str]) -> list[str]:
    """The cells of each row as one text, empty ones left out."""
    cells = rows[columns].astype(object).where(rows[columns].notna(), "").to_numpy()
    return [
        " · ".join(c if isinstance(c, str) else f"{name} {c}" for name, c in zip(columns, row, strict=True) if c != "")
        for row in cells
    ]


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(column) or column.dtype == object
