"""A figure as a record: which rows of which table, how they are drawn, what is said under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ..charts.style import captioned, sample

Tables = dict[str, pd.DataFrame]


class Drawing(NamedTuple):
    """`draw(rows, tables)` gets the table's rows that meet `where` and may return None.

    interval: what shows the interval ("Bands", "Whiskers"), "" where the figure shows none.
    control: what shows the control ("Dotted"), "" where the figure shows none.
    select: the rows that are drawn, so that the caption's n is theirs; by default all that meet `where`.
    """

    name: str
    table: str
    where: Mapping[str, Any]
    title: str
    caption: str
    draw: Callable[[pd.DataFrame, Tables], go.Figure | None]
    interval: str = ""
    control: str = ""
    select: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame.copy


def draw_all(drawings: Iterable[Drawing], tables: Tables) -> dict[str, go.Figure]:
    """Every drawing whose rows are there, with its caption, n and the meaning of its intervals."""
    drawn = {}
    for item in drawings:
        rows = matching(tables.get(item.table, pd.DataFrame()), item.where)
        rows = rows if rows.empty else item.select(rows)
        empty = rows.empty or rows["value"].isna().all()
        figure = None if empty else item.draw(rows, tables)
        if figure is not None:
            said = f"{item.caption}{_controls(rows, item.control)} {sample(rows, item.interval)}".strip()
            drawn[item.name] = captioned(figure, item.title, said, item.table, item.where)
    return drawn


def matching(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that meet every condition column == value; a missing control is the empty one."""
    for column, value in where.items():
        if column in table:
            cells = table[column].fillna("") if column == "control" else table[column]
            table = table[cells == value]
    return table


def _controls(rows: pd.DataFrame, shown: str) -> str:
    """The sentence that names the controls among these rows."""
    names = [str(c) for c in rows["control"].dropna().unique() if c] if "control" in rows else []
    return f" {shown}, the control: {', '.join(names)}." if names and shown else ""


def with_panels(rows: pd.DataFrame) -> pd.DataFrame:
    """A column `panel` for maps, where a control needs a panel of its own: "BOS", "BOS · random tokens"."""
    if "control" not in rows:
        return rows.assign(panel=rows["condition"])
    control = rows["control"].fillna("")
    return rows.assign(panel=rows["condition"].where(control == "", rows["condition"] + " · control: " + control))
