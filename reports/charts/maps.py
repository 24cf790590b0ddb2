"""Heat maps: heads by layer, anything by state, tokens by state and position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .style import (
    MISSING,
    SIGNED,
    TEMPLATE,
    UNSIGNED,
    axis_title,
    check_rows,
    common_unit,
    hover,
    panels,
    parts,
    plain,
    sized,
    token_label,
)

CELL = 15  # px, the height of a row


def head_map(frame: pd.DataFrame, value: str = "value", **options: Any) -> go.Figure:
    """Layer × head heat map of a table with columns layer, head and `value`; options as in `heat_map`."""
    return heat_map(frame, "layer", "head", value, **options)


def heat_map(
    frame: pd.DataFrame,
    x: str,
    y: str,
    value: str = "value",
    *,
    signed: bool = False,
    panel: str | None = None,
    scale: tuple[float, float] | None = None,
    unit: str | None = None,
) -> go.Figure:
    """Rows of a table as a map, one panel under the other per value of `panel`, all on one colour scale.

    Depth (`x`: layer or state) runs from left to right as in every line figure. A missing cell is grey.
    signed: diverging colours, symmetric about 0; otherwise cividis from 0 (or the least value if negative).
    scale: (least, greatest) colour value; default from the data of all panels.
    """
    check_rows(frame, (panel, x, y))
    split = parts(frame, panel)
    rows, columns = list(frame[y].unique()), _range(frame[x])
    if pd.api.types.is_numeric_dtype(frame[y]):
        rows = _range(frame[y])
    gap = _gap(len(split), len(rows))
    figure = panels([name for name, _ in split], stacked=True, gap=gap)
    colours = _colours(frame[value], signed, scale, common_unit(frame, "") if unit is None else unit)
    for row, (name, part) in enumerate(split, start=1):
        keys = ([panel] if panel else []) + [x, y]
        cells = _cells(part, x, y, value, keys, columns, rows)
        figure.add_heatmap(**cells, **colours, showscale=row == 1, name=plain(name), row=row, col=1)
    return _map_axes(figure, x, y, rows, len(split))


def _cells(part: pd.DataFrame, x: str, y: str, value: str, keys: list[str], columns: list, rows: list) -> dict:
    """z [rows, columns] with NaN where the table has no row, and the hover text of each cell."""
    z = np.full((len(rows), len(columns)), math.nan)
    text = np.full(z.shape, "", dtype=object)
    where_x, where_y = {c: i for i, c in enumerate(columns)}, {r: i for i, r in enumerate(rows)}
    for record in part.to_dict("records"):
        at = where_y[record[y]], where_x[record[x]]
        z[at], text[at] = record[value], hover(record, keys, value)
    return {
        "z": z,
        "x": columns,
        "y": list(range(len(rows))),
        "hovertext": text.tolist(),
        "hovertemplate": "%{hovertext}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }


def _colours(values: pd.Series, signed: bool, scale: tuple[float, float] | None, unit: str) -> dict:
    known = values.dropna()
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if signed:
        reach = max(abs(low), abs(high)) if scale is None else max(abs(scale[0]), abs(scale[1]))
        ends = {"zmin": -(reach or 1.0), "zmax": reach or 1.0, "zmid": 0}
    else:
        low, high = scale or (min(low, 0.0), high)
        ends = {"zmin": low, "zmax": high if high > low else low + 1}
    bar = {"title": {"text": plain(unit), "side": "right"}, "thickness": 12, "outlinewidth": 0, "x": 1.01}
    return {"colorscale": SIGNED if signed else UNSIGNED, "colorbar": bar, **ends}


def _map_axes(figure: go.Figure, x: str, y: str, rows: list, count: int) -> go.Figure:
    step = max(1, math.ceil(len(rows) / 12)) if all(isinstance(r, (int, np.integer)) for r in rows) else 1
    ticks = {"tickvals": list(range(0, len(rows), step)), "ticktext": [plain(r) for r in rows[::step]]}
    figure.update_yaxes(**ticks, showgrid=False, title_text=plain(y.replace("_label", "")))
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title_text=axis_title(x), row=count, col=1)
    figure.update_layout(plot_bgcolor=MISSING, margin_r=90)
    return sized(figure, _height(count, len(rows)))


def _height(count: int, rows: int) -> int:
    return 110 + count * (max(rows * CELL, 110) + 34)


def _gap(count: int, rows: int) -> float:
    return 0.0 if count == 1 else min(34 / (_height(count, rows) - 110), 1 / (count - 1) - 0.01)


def _range(values: pd.Series) -> list[int]:
    """Every whole number from the least to the greatest: a layer without rows stays visible as missing."""
    return list(range(int(values.min()), int(values.max()) + 1))


def token_grid(frame: pd.DataFrame, *, value: str = "value", text: str = "top", unit: str = "probability") -> go.Figure:
    """State × position map of one prompt: colour is `value` (0 to 1), the cell's text the token in `text`.

    Columns: state, position, token (what is read at that position), `text`, `value`. Positions are
    numbered, so two equal tokens stay two columns; every token is escaped (see `token_label`).
    """
    check_rows(frame, ("position", "state"))
    columns, rows = sorted(frame["position"].unique()), sorted(frame["state"].unique())
    z = np.full((len(rows), len(columns)), math.nan)
    shown, texts = (np.full(z.shape, "", dtype=object) for _ in range(2))
    for record in frame.to_dict("records"):
        at = rows.index(record["state"]), columns.index(record["position"])
        z[at], shown[at], texts[at] = record[value], _short(record[text]), _token_hover(record, text, value)
    figure = go.Figure()
    look = {**_colours(frame[value], False, (0, 1), unit), "xgap": 1, "ygap": 1}
    cells = {"z": z, "x": columns, "y": rows, "hovertext": texts.tolist()}
    figure.add_heatmap(**cells, **look, hovertemplate="%{hovertext}<extra></extra>")
    figure.add_trace(_words(shown, z, columns, rows))
    tokens = frame.drop_duplicates("position").set_index("position")["token"]
    labels = [_short(tokens[column], 14) for column in columns]
    figure.update_xaxes(tickvals=columns, ticktext=labels, tickangle=-40, showgrid=False)
    figure.update_xaxes(title_text="token at the position", range=[columns[0] - 0.5, columns[-1] + 0.5])
    figure.update_yaxes(title_text=axis_title("state"), range=[rows[0] - 0.5, rows[-1] + 0.5])
    figure.update_yaxes(showgrid=False, dtick=5 if len(rows) > 12 else 1)
    figure.update_layout(template=TEMPLATE, plot_bgcolor=MISSING, margin_r=90)
    return sized(figure, 150 + 19 * len(rows), 180 + 66 * len(columns))


def _words(shown: np.ndarray, z: np.ndarray, columns: list, rows: list) -> go.Scatter:
    """The cells' words, white on the dark half of cividis and black on the light one."""
    colours = np.where(z >= 0.5, "#000000", "#ffffff")
    across, up = np.meshgrid(columns, rows)
    place = {"x": across.ravel().tolist(), "y": up.ravel().tolist(), "text": shown.ravel().tolist()}
    font = {"color": colours.ravel().tolist(), "size": 11}
    return go.Scatter(**place, mode="text", textfont=font, hoverinfo="skip", showlegend=False)


def _short(token: str, length: int = 9) -> str:
    return token_label(token if len(token) <= length else token[: length - 1] + "…")


def _token_hover(record: dict, text: str, value: str) -> str:
    said = {**record, "unit": "probability", text: token_label(record[text])}
    place = f"state {said['state']}, position {said['position']}, token “{token_label(said['token'])}”"
    return f"{place}<br>most likely next: “{said[text]}”<br><b>{record[value]:.3g}</b> probability"
