"""Bars with intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .style import (
    COLOURS,
    INK,
    PATTERNS,
    check_rows,
    common_unit,
    grid_of,
    hover,
    legend_below,
    legend_once,
    panels,
    parts,
    place,
    plain,
    sized,
)

HEIGHT = 400  # px, of vertical bars
BAR = 16  # px, of one horizontal bar
FILL = 0.76  # of the room of a group


def bars(
    frame: pd.DataFrame,
    category: str,
    by: str | None = None,
    *,
    panel: str | None = None,
    vertical: bool = False,
) -> go.Figure:
    """A group per `category`, a bar per value of `by`, whiskers from `lower` to `upper`, panels side by side.

    Horizontal for names, vertical for ordered places. Panels share the categories, not the scale: each has
    its own unit.
    """
    check_rows(frame, (panel, category, by))
    split = parts(frame, panel)
    figure = panels([name for name, _ in split], stacked=False, gap=0.06, share_values=not vertical)
    names = list(frame[category].unique())
    series = list(frame[by].unique()) if by else [""]
    keys = [key for key in (panel, category, by) if key]
    for column, (_, part) in enumerate(split, start=1):
        for index, name in enumerate(series):
            bar = _bar(part[part[by] == name] if by else part, category, names, keys, (index, len(series)), vertical)
            figure.add_bar(**bar, name=plain(name), legendgroup=str(name), **place(column, len(split)))
        scale: dict[str, Any] = {"title_text": plain(common_unit(part, "value")), "rangemode": "tozero"}
        (figure.update_yaxes if vertical else figure.update_xaxes)(**scale, **place(column, len(split)))
    legend_once(figure, series)
    height = HEIGHT if vertical else 170 + len(names) * (len(series) * BAR + 10)
    rows, across = grid_of(len(split))
    if across > 2 and not vertical:
        figure.update_xaxes(nticks=4, tickangle=0)  # numbers in narrow panels run into each other
    return _finished(figure, names, vertical, height * rows, min(120 + 220 * across, 940) if across > 1 else 0)


def _finished(figure: go.Figure, names: list, vertical: bool, height: int, width: int) -> go.Figure:
    ticks = {"tickvals": list(range(len(names))), "ticktext": [plain(name) for name in names]}
    if vertical:
        figure.update_xaxes(**ticks, showgrid=False)
    else:
        figure.update_yaxes(**ticks, showgrid=False, range=[len(names) - 0.5, -0.5])
    figure.update_layout(barmode="overlay")
    return legend_below(sized(figure, height, width))


def _bar(
    rows: pd.DataFrame, category: str, names: list, keys: list[str], slot: tuple[int, int], vertical: bool
) -> dict:
    """The bars of one series. slot: its number and the number of series; an absent one leaves its room empty."""
    values = rows["value"].to_numpy(dtype=float)
    missing = np.full(len(rows), math.nan)
    low, high = (rows[c].to_numpy(dtype=float) if c in rows else missing for c in ("lower", "upper"))
    reach = {"array": (high - values).tolist(), "arrayminus": (values - low).tolist()}
    along, across, error = ("y", "x", "error_y") if vertical else ("x", "y", "error_x")
    return {
        along: values.tolist(),
        across: [names.index(name) for name in rows[category]],
        "width": FILL / slot[1],
        "offset": FILL * (slot[0] / slot[1] - 0.5),
        "orientation": "v" if vertical else "h",
        error: {"symmetric": False, "thickness": 1.3, "width": 3, "color": INK, **reach},
        "marker": _fill(slot[0]),
        "hovertext": [hover(row, keys) for row in rows.to_dict("records")],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _fill(index: int) -> dict:
    """A colour, and a pattern in it from the second series on."""
    colour = COLOURS[index % len(COLOURS)]
    pattern = {"shape": PATTERNS[index % len(PATTERNS)], "fgcolor": colour, "bgcolor": "white", "size": 6}
    return {"color": colour, "pattern": pattern, "line": {"color": colour, "width": 1}}
