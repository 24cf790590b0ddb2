"""Points that name themselves: two numbers of the same thing against each other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .hovers import FORMAT, fixed
from .style import (
    COLOURS,
    GREY,
    MARKERS,
    check_rows,
    digits,
    grid_of,
    legend_below,
    legend_once,
    panels,
    parts,
    place,
    plain,
    sized,
)

HEIGHT = 430  # px
FAR = 4  # points of a panel that are named where nobody named others


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    label: str,
    *,
    titles: tuple[str, str],
    by: str | None = None,
    panel: str | None = None,
    diagonal: bool = False,
    named: Sequence[str] = (),
) -> go.Figure:
    """A point per row at (`x`, `y`), `label` on hover and beside those in `named`; panels have their own scales.

    by: a colour and a marker for each value. diagonal: the line where both are equal. Without `named` the points that
    lie farthest from the others are named.
    """
    check_rows(frame, (panel, by, label))
    split = parts(frame, panel)
    figure = panels([name for name, _ in split], stacked=False, gap=0.08, share_values=False)
    series = list(frame[by].unique()) if by else [""]
    for column, (_, part) in enumerate(split, start=1):
        if diagonal:
            _add_diagonal(figure, part, x, y, place(column, len(split)))
        shown = set(named) & set(part[label]) or set(_far(part, x, y, label))
        for index, name in enumerate(series):
            rows = part[part[by] == name] if by else part
            own = {"name": plain(name), "legendgroup": str(name)}
            points = _points(rows, (x, y, label), titles, index, shown)
            figure.add_scatter(**points, **own, **place(column, len(split)))
    legend_once(figure, series)
    figure.update_xaxes(title_text=plain(titles[0]))
    figure.update_yaxes(title_text=plain(titles[1]), col=1)
    rows, across = grid_of(len(split))
    return legend_below(sized(figure, HEIGHT * rows, min(320 * across, 940) if across > 1 else 0))


def _far(part: pd.DataFrame, x: str, y: str, label: str) -> list[str]:
    """The labels of the points that lie farthest from the middle, in widths of each axis."""
    both = part[[x, y]].dropna()
    away = ((both - both.median()) / (both.max() - both.min()).replace(0, math.nan)).pow(2).sum(axis=1)
    return part.loc[away.nlargest(min(FAR, len(part) // 3)).index, label].tolist()


def _points(
    rows: pd.DataFrame, names: tuple[str, str, str], titles: tuple[str, str], index: int, named: Collection[str]
) -> dict[str, Any]:
    x, y, label = names
    said = f"{fixed(titles[0])} <b>%{{x:{FORMAT}}}</b><br>{fixed(titles[1])} <b>%{{y:{FORMAT}}}</b>"
    look = {"color": COLOURS[index % len(COLOURS)], "symbol": MARKERS[index % len(MARKERS)], "size": 7, "opacity": 0.75}
    return {
        "x": digits(rows[x]),
        "y": digits(rows[y]),
        "mode": "markers+text",
        "text": [plain(name) if name in named else "" for name in rows[label]],
        "textposition": "top center",
        "textfont": {"size": 11},
        "marker": look,
        "customdata": [plain(name) for name in rows[label]],
        "hovertemplate": f"%{{customdata}}<br>{said}<extra></extra>",
        "cliponaxis": False,
    }


def _add_diagonal(figure: go.Figure, part: pd.DataFrame, x: str, y: str, where: dict[str, Any]) -> None:
    both = pd.concat([part[x], part[y]]).dropna()
    ends = digits([both.min(), both.max()]) if len(both) else [math.nan, math.nan]
    line = {"color": GREY, "dash": "dash", "width": 1.2}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False, **where)
