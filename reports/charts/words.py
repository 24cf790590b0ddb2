"""Texts as figures: one token a cell, shaded by a value."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .style import MISSING, TEMPLATE, UNSIGNED, check_rows, number, plain, sized, token_label

PER_LINE = 14  # tokens


def shaded_words(frame: pd.DataFrame, *, unit: str, marked: str = "") -> go.Figure:
    """Every example's tokens in lines of PER_LINE cells, coloured by `value`.

    Columns: example, position, token, value; tokens whose `kind` is `marked` stand in brackets, followed by ✗.
    """
    check_rows(frame, ("example", "position"))
    lines = [
        (name if at == 0 else "", part.iloc[at : at + PER_LINE])
        for name, part in frame.sort_values("position").groupby("example", sort=False)
        for at in range(0, len(part), PER_LINE)
    ]
    z = np.full((len(lines), PER_LINE), math.nan)
    words, hovers = (np.full(z.shape, "", dtype=object) for _ in range(2))
    for row, (_, part) in enumerate(lines):
        for column, told in enumerate(part.to_dict("records")):
            label = token_label(told["token"])
            wrong = bool(marked) and told.get("kind") == marked
            z[row, column], words[row, column] = told["value"], f"[{label}] ✗" if wrong else label
            kind = f"<br>{plain(told['kind'])}" if told.get("kind") else ""
            hovers[row, column] = f"token “{label}”{kind}<br><b>{number(told['value'])}</b> {plain(unit)}"
    low, high = float(np.nanmin(z)), float(np.nanmax(z))
    bar = {"title": {"text": plain(unit), "side": "right"}, "thickness": 12, "outlinewidth": 0}
    look = {"colorscale": UNSIGNED, "zmin": low, "zmax": high if high > low else low + 1, "colorbar": bar}
    figure = go.Figure()
    rows = list(range(len(lines)))
    cells = {"z": z, "x": list(range(PER_LINE)), "y": rows, "hovertext": hovers.tolist(), "xgap": 1, "ygap": 3}
    figure.add_heatmap(**cells, **look, hovertemplate="%{hovertext}<extra></extra>")
    across, down = np.meshgrid(range(PER_LINE), rows)
    colours = np.where(z >= (low + high) / 2, "#000000", "#ffffff").ravel().tolist()
    place = {"x": across.ravel().tolist(), "y": down.ravel().tolist(), "text": words.ravel().tolist()}
    font = {"color": colours, "size": 11}
    figure.add_scatter(**place, mode="text", textfont=font, hoverinfo="skip", showlegend=False)
    figure.update_yaxes(tickvals=rows, ticktext=[plain(name) for name, _ in lines], autorange="reversed")
    figure.update_yaxes(showgrid=False)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False)
    figure.update_layout(template=TEMPLATE, plot_bgcolor=MISSING, margin_r=90)
    return sized(figure, 120 + 30 * len(lines), 1000)
