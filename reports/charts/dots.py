"""Dots with intervals, one line a name; what controls a dot is a grey tick on its line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .hovers import fixed, template
from .style import (
    BETWEEN,
    COLOURS,
    GREY,
    INK,
    MARKERS,
    check_rows,
    common_unit,
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

LINE = 15  # px, of one dot
FILL = 0.62  # of the room of a name, shared by its series
TICKS = ("line-ns", "x-thin", "y-down", "asterisk", "cross-thin", "hash", "y-up")  # of controls, one each


def dots(
    frame: pd.DataFrame,
    category: str,
    by: str | None = None,
    *,
    panel: str | None = None,
    zero: bool = False,
    x_title: str | None = None,
) -> go.Figure:
    """A line per `category`, a dot per value of `by` with its interval, panels side by side.

    Rows whose column `control` is not empty are grey ticks on the line of the series that they control. Panels
    share the names, not the scale: each has its own unit. zero: a line at 0.
    """
    check_rows(frame, (panel, category, by, "control"))
    split = parts(frame, panel)
    names, series = list(frame[category].unique()), list(frame[by].unique()) if by else [""]
    row = len(names) * max(24, len(series) * LINE + 8)
    figure = panels([name for name, _ in split], stacked=False, gap=0.05, share_values=True, row=row)
    controls = sorted(_controls(frame).unique().tolist(), key=lambda name: name == "")
    for column, (shown, part) in enumerate(split, start=1):
        for index, name in enumerate(series):
            mine = part[part[by] == name] if by else part
            shift = FILL * ((index + 0.5) / len(series) - 0.5)
            for control in (c for c in controls if (_controls(mine) == c).any()):  # a dot lies over its ticks
                rows = mine[_controls(mine) == control]
                label = f"control: {control}" if control else str(name) or "measured"
                told = [fixed(shown), "%{text}", fixed(label if control or by else "")]
                look = _tick(controls.index(control)) if control else _dot(index)
                points = _points(rows, [names.index(n) + shift for n in rows[category]], category, told, look)
                named = {"name": plain(label), "legendgroup": label, "legendrank": 2 if control else 1}
                figure.add_scatter(**points, **named, **place(column, len(split)))
        figure.update_xaxes(title_text=plain(x_title or common_unit(part, "")), **place(column, len(split)))
    legend_once(figure, [*series, *(c for c in controls if c)])
    return _finished(figure, names, row, len(split), zero)


def _controls(rows: pd.DataFrame) -> pd.Series:
    return rows["control"].fillna("") if "control" in rows else pd.Series("", index=rows.index)


def _points(rows: pd.DataFrame, heights: list[float], category: str, told: list[str], look: dict) -> dict[str, Any]:
    """The points of one series; `text` says their name, since their heights are shifted from the axis' ticks."""
    values = rows["value"].to_numpy(dtype=float)
    low, high = (rows[c].to_numpy(dtype=float) if c in rows else np.full(len(rows), np.nan) for c in ("lower", "upper"))
    reach = {"array": digits(_seen(high - values, values)), "arrayminus": digits(_seen(values - low, values))}
    return {
        "x": digits(values),
        "y": digits(heights),
        "text": [fixed(name) for name in rows[category]],
        "mode": "markers",
        "cliponaxis": False,
        "marker": look,
        "error_x": {
            "symmetric": False,
            "thickness": 0.8 if look["color"] == GREY else 1.4,
            "width": 0,
            "color": look["line"]["color"],
            **reach,
        },
        **template(told, "x", rows, "customdata"),
    }


def _seen(reach: np.ndarray, values: np.ndarray) -> np.ndarray:
    """An interval's side without what rounding leaves of equal values: an axis as narrow as that has no ticks."""
    return np.where(reach < 1e-9 * np.abs(values), 0.0, reach)


def _dot(index: int) -> dict[str, Any]:
    colour = COLOURS[index % len(COLOURS)]
    return {"color": colour, "symbol": MARKERS[index % len(MARKERS)], "size": 8, "line": {"width": 0, "color": colour}}


def _tick(index: int) -> dict[str, Any]:
    """Grey, and as thin as a line: what a control is, no dot is taken for."""
    symbol = TICKS[index % len(TICKS)]
    return {"symbol": symbol, "size": 11, "color": GREY, "line": {"width": 2, "color": GREY}}


def _finished(figure: go.Figure, names: list, row: int, count: int, zero: bool) -> go.Figure:
    ticks = {"tickvals": list(range(len(names))), "ticktext": [plain(name) for name in names]}
    figure.update_yaxes(**ticks, showgrid=True, range=[len(names) - 0.5, -0.5])
    rows, across = grid_of(count)
    figure.update_xaxes(nticks=6 if across < 3 else 4, tickangle=0)
    if zero:
        figure.update_xaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    height = 150 + row * rows + BETWEEN * (rows - 1)
    return legend_below(sized(figure, height, min(200 + 200 * across, 940) if across > 1 else 0))
