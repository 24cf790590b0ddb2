"""Points that name themselves: two numbers of the same thing against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .style import (
    COLOURS,
    GREY,
    MARKERS,
    check_rows,
    grid_of,
    legend_below,
    legend_once,
    number,
    panels,
    parts,
    place,
    plain,
    sized,
)

HEIGHT = 430  # px


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

    by: a colour and a marker for each value. diagonal: the line where both are equal.
    """
    check_rows(frame, (panel, by, label))
    split = parts(frame, panel)
    figure = panels([name for name, _ in split], stacked=False, gap=0.08, share_values=False)
    series = list(frame[by].unique()) if by else [""]
    for column, (_, part) in enumerate(split, start=1):
        if diagonal:
            _add_diagonal(figure, part, x, y, place(column, len(split)))
        for index, name in enumerate(series):
            rows = part[part[by] == name] if by else part
            shown = {"name": plain(name), "legendgroup": str(name)}
            figure.add_scatter(**_points(rows, x, y, label, titles, index, named), **shown, **place(column, len(split)))
    legend_once(figure, series)
    figure.update_xaxes(title_text=plain(titles[0]))
    figure.update_yaxes(title_text=plain(titles[1]), col=1)
    rows, across = grid_of(len(split))
    return legend_below(sized(figure, HEIGHT * rows, min(320 * across, 940) if across > 1 else 0))


def _points(
    rows: pd.DataFrame, x: str, y: str, label: str, titles: tuple[str, str], index: int, named: Sequence[str]
) -> dict[str, Any]:
    said = [
        f"{plain(r[label])}<br>{plain(titles[0])} <b>{number(r[x])}</b><br>{plain(titles[1])} <b>{number(r[y])}</b>"
        for r in rows.to_dict("records")
    ]
    look = {"color": COLOURS[index % len(COLOURS)], "symbol": MARKERS[index % len(MARKERS)], "size": 7, "opacity": 0.75}
    return {
        "x": rows[x].tolist(),
        "y": rows[y].tolist(),
        "mode": "markers+text",
        "text": [plain(name) if name in named else "" for name in rows[label]],
        "textposition": "top center",
        "textfont": {"size": 11},
        "marker": look,
        "hovertext": said,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "cliponaxis": False,
    }


def _add_diagonal(figure: go.Figure, part: pd.DataFrame, x: str, y: str, where: dict[str, Any]) -> None:
    both = pd.concat([part[x], part[y]]).dropna()
    ends = [float(both.min()), float(both.max())] if len(both) else [math.nan, math.nan]
    line = {"color": GREY, "dash": "dash", "width": 1.2}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False, **where)
