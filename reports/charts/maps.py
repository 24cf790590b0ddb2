"""Heat maps: heads by layer, anything by state; switches between what is measured and its control."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .colours import colours
from .hovers import fixed, template
from .style import (
    INK,
    MISSING,
    axis_title,
    check_rows,
    common_unit,
    digits,
    meta_of,
    panels,
    parts,
    plain,
    sized,
    traces_of,
)

CELL = 15  # px, the height of a row
IN_A_ROW = 90  # letters of the names of buttons; beyond, they are a menu
UNCLEAR = "rgba(196, 196, 196, 0.85)"  # over a cell that is not told from its control
HEAD = {"kind": "head"}  # of a map whose cells are heads: their `customdata` is "12.3"


def head_map(frame: pd.DataFrame, value: str = "value", **options: Any) -> go.Figure:
    """Layer × head heat map of a table with columns layer, head and `value`; options as in `heat_map`."""
    figure = heat_map(frame, "layer", "head", value, **options)
    return figure.update_layout(meta={**meta_of(figure), "address": HEAD})


def heat_map(
    frame: pd.DataFrame,
    x: str,
    y: str,
    value: str = "value",
    *,
    signed: bool | Collection[str] = False,
    panel: str | None = None,
    view: str | None = None,
    scale: tuple[float, float] | None = None,
    unit: str | None = None,
) -> go.Figure:
    """Rows of a table as a map, one panel under the other per value of `panel`, all on one colour scale.

    Depth (`x`: layer or state) runs from left to right as in every line figure. A missing cell has no colour; rows
    whose column `unclear` is true are grey. view: a column; one of its values is shown at a time, chosen by buttons.
    signed: diverging colours, symmetric about 0 (of all views, or of those named); otherwise from 0 (or the least
    value if negative). scale: (least, greatest) colour value; default from all panels of views of one kind, without
    single cells that would swallow it (see `colours`).
    """
    check_rows(frame, (view, panel, x, y))
    view, frame = (view, frame) if view else ("view", frame.assign(view=""))
    rows = _along(frame[y])
    axes = _along(frame[x], in_steps=x == "state"), rows
    names = [name for name, _ in parts(frame, panel)]
    figure = panels(names, stacked=True, gap=_gap(len(names), len(rows)))
    views = list(frame[view].unique())
    kinds = {name: signed if isinstance(signed, bool) else name in signed for name in views}
    for name in views:
        alike = frame[frame[view].map(kinds) == kinds[name]]
        told = common_unit(alike, "") if unit is None else unit
        look = colours(alike[value], kinds[name], scale, told)
        look |= {"visible": name == views[0], "meta": str(name)}
        for row, shown in enumerate(names, start=1):
            part = frame[(frame[view] == name) & ((frame[panel] == shown) if len(names) > 1 else True)]
            if len(part):
                trace = _cells(part, (x, y, value), axes, [fixed(name), fixed(shown)])
                figure.add_heatmap(**trace, **look, showscale=row == 1, row=row, col=1)
            if "unclear" in part and part["unclear"].any():
                over = _grey(part, (x, y), axes)
                figure.add_heatmap(**over, visible=look["visible"], meta=look["meta"], row=row, col=1)
    figure = _axes(figure, x, y, rows, len(names))
    return switch(figure, views) if len(views) > 1 else figure


def switch(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    """Buttons above the plot (a menu where their names are long): each shows the traces whose `meta` is its name."""
    owners = [trace.meta for trace in traces_of(figure)]
    buttons = [
        {"label": plain(name), "method": "restyle", "args": [{"visible": [owner == name for owner in owners]}]}
        for name in names
    ]
    wide = sum(len(str(name)) for name in names) > IN_A_ROW
    shape = {"type": "dropdown", "direction": "down"} if wide else {"type": "buttons", "direction": "right"}
    look = {**shape, "showactive": True, "font": {"size": 11.5, "color": INK}}
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 22, "t": 0}}
    return figure.update_layout(updatemenus=[{"buttons": buttons, "bordercolor": "#b5b5b5", **look, **place}])


def _cells(part: pd.DataFrame, names: tuple[str, str, str], axes: tuple[list, list], told: list[str]) -> dict:
    """The map of one panel, z [rows, columns] with None where the table has no row."""
    x, y, value = names
    said = [*told, f"{x} %{{x}}", f"{y.removesuffix('_label')} %{{y}}"]
    hover = template([part for part in said if part], "z", part, "text")
    cells = {"z": _laid(part, (x, y), axes, digits(part[value])), **_place(axes), **hover, "hoverongaps": False}
    if "text" in hover:
        cells["text"] = _laid(part, (x, y), axes, hover["text"])
    if (x, y) == ("layer", "head"):
        heads = [f"{int(a)}.{int(b)}" for a, b in zip(part[x], part[y], strict=True)]
        cells["customdata"] = _laid(part, (x, y), axes, heads)
    return cells


def _grey(part: pd.DataFrame, names: tuple[str, str], axes: tuple[list, list]) -> dict:
    """Grey over the cells that are unclear; what lies under it stays under the mouse."""
    grey = _laid(part, names, axes, [1 if unclear else None for unclear in part["unclear"]])
    look = {"colorscale": [[0, UNCLEAR], [1, UNCLEAR]], "showscale": False, "hoverinfo": "skip"}
    return {"z": grey, **_place(axes), **look}


def has_grey(figure: go.Figure) -> bool:
    """Whether some cell of a map is grey."""
    return any(trace.type == "heatmap" and trace.hoverinfo == "skip" for trace in traces_of(figure))


def _laid(part: pd.DataFrame, names: tuple[str, str], axes: tuple[list, list], values: list) -> list[list]:
    """Values as they lie in the map, [rows, columns]; None in cells without a row."""
    columns, rows = ({name: i for i, name in enumerate(axis)} for axis in axes)
    cells = np.full((len(rows), len(columns)), None, dtype=object)
    for a, b, told in zip(part[names[0]], part[names[1]], values, strict=True):
        cells[rows[b], columns[a]] = told
    return cells.tolist()


def _place(axes: tuple[list, list]) -> dict[str, Any]:
    columns, rows = axes
    return {"x": columns, "y": rows if _numbers(rows) else list(range(len(rows))), "xgap": 1, "ygap": 1}


def _numbers(rows: list) -> bool:
    return all(isinstance(row, (int, np.integer)) for row in rows)


def _axes(figure: go.Figure, x: str, y: str, rows: list, count: int) -> go.Figure:
    if _numbers(rows):
        shown = rows[:: max(1, math.ceil(len(rows) / 12))]
        ticks = {"tickvals": shown, "ticktext": [str(row) for row in shown]}
    else:
        ticks = {"tickvals": list(range(len(rows))), "ticktext": [plain(row) for row in rows]}
    figure.update_yaxes(**ticks, showgrid=False, title_text=plain(y.replace("_label", "")))
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title_text=axis_title(x), row=count, col=1)
    figure.update_layout(plot_bgcolor=MISSING, margin_r=90, meta={**meta_of(figure), "x": x})
    return sized(figure, _height(count, len(rows)))


def _height(count: int, rows: int) -> int:
    return 110 + count * (max(rows * CELL, 110) + 34)


def _gap(count: int, rows: int) -> float:
    return 0.0 if count == 1 else min(34 / (_height(count, rows) - 110), 1 / (count - 1) - 0.01)


def _along(values: pd.Series, in_steps: bool = False) -> list[Any]:
    """The places of an axis: numbers as `_range` has them, words in their order."""
    return _range(values, in_steps) if pd.api.types.is_numeric_dtype(values) else list(values.unique())


def _range(values: pd.Series, in_steps: bool = False) -> list[int]:
    """Every whole number from the least to the greatest: a layer without rows stays visible as missing. States that
    were measured in steps (every third) are columns side by side.
    """
    known = np.unique(values.to_numpy()).astype(int)
    step = int(np.gcd.reduce(np.diff(known))) if in_steps and len(known) > 1 else 1
    return list(range(int(known[0]), int(known[-1]) + 1, step))
