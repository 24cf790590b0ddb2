"""A figure as a record: which rows of which table, how they are drawn, what is said under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ..charts.maps import has_grey
from ..charts.marks import mark
from ..charts.style import captioned, sample

Tables = dict[str, pd.DataFrame]
MAIN, OPEN = "main", 4  # the theme of the figures that a page shows open, and how many there are at most
NAMED = 8  # heads and layers that are labelled in one figure


class Drawing(NamedTuple):
    """`draw(rows, tables)` gets the table's rows that meet `where` and may return None.

    seen, read: what is seen, and how to read it, a short sentence each. theme: "main", or the fold that it lies in;
    the first main figure is the page's key figure.
    interval: what shows the interval ("Bands", "Whiskers"), "" where the figure shows none.
    control: what shows the control ("Dotted"), "" where the figure shows none.
    select: the rows that are drawn, so that the caption's n is theirs; by default all that meet `where`.
    grey: what grey cells mean, said where there are any.
    claims: the names of those that this figure shows the evidence for.
    """

    name: str
    table: str
    where: Mapping[str, Any]
    title: str
    draw: Callable[[pd.DataFrame, Tables], go.Figure | None]
    seen: str
    read: str = ""
    theme: str = MAIN
    interval: str = ""
    control: str = ""
    select: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame.copy
    grey: str = ""
    claims: tuple[str, ...] = ()


def draw_all(drawings: Iterable[Drawing], tables: Tables) -> dict[str, go.Figure]:
    """Every drawing whose rows are there, with its caption, n and the meaning of its intervals."""
    drawn: dict[str, go.Figure] = {}
    opened = 0
    for item in drawings:
        rows = matching(tables.get(item.table, pd.DataFrame()), item.where)
        rows = rows if rows.empty else item.select(rows)
        empty = rows.empty or rows["value"].isna().all()
        figure = None if empty else item.draw(rows, tables)
        if figure is not None:
            theme = "more" if item.theme == MAIN and opened == OPEN else item.theme
            opened += theme == MAIN
            drawn[item.name] = _told(mark(figure, named(tables, item.name)), item, rows, theme)
    return drawn


def _told(figure: go.Figure, item: Drawing, rows: pd.DataFrame, theme: str) -> go.Figure:
    parts = {
        "seen": f"{item.seen}{_controls(rows, item.control)}",
        "read": " ".join(text for text in (item.read, item.grey if has_grey(figure) else "") if text),
        "sample": sample(rows, item.interval),
    }
    said = " ".join(part for part in parts.values() if part)
    return captioned(figure, item.title, said, item.table, item.where, theme=theme, claims=item.claims, **parts)


def named(tables: Tables, figure: str) -> list[str]:
    """The heads ("12.3") and layers ("L12") of the findings that point to this figure, else of the first one."""
    found = tables.get("findings", pd.DataFrame())
    if found.empty or not {"figure", "heads"} <= set(found):
        return []
    mine = found[found["figure"] == figure]
    words = " ".join((mine if len(mine) else found.head(1))["heads"].fillna("").astype(str)).split()
    return list(dict.fromkeys(words))[:NAMED]


def matching(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that meet every condition column == value; a missing control is the empty one."""
    for column, value in where.items():
        if column in table:
            cells = table[column].fillna("") if column == "control" else table[column]
            table = table[cells == value]
    return table


def first_condition(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["condition"] == rows["condition"].iloc[0]] if len(rows) else rows


def _controls(rows: pd.DataFrame, shown: str) -> str:
    """The sentence that names the controls among these rows."""
    names = [str(c) for c in rows["control"].dropna().unique() if c] if "control" in rows else []
    return f" {shown}, the control: {', '.join(names)}." if names and shown else ""
