"""Texts as figures: one token a cell, shaded by a value."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .colours import colours
from .hovers import FORMAT, fixed
from .style import MISSING, TEMPLATE, check_rows, digits, plain, sized, token_label

PER_LINE = 10  # tokens
LETTERS = 10  # of a token, that its cell has room for; the whole one is under the mouse


def shaded_words(
    frame: pd.DataFrame, *, unit: str, marked: str = "", per_line: int = PER_LINE, signed: bool = False
) -> go.Figure:
    """Every example's tokens in lines of `per_line` cells, coloured by `value`.

    Columns: example, position, token, value; tokens whose `kind` is `marked` stand in brackets, followed by ✗.
    signed: diverging colours, symmetric about 0.
    """
    check_rows(frame, ("example", "position"))
    lines = [
        (name if at == 0 else "", part.iloc[at : at + per_line])
        for name, part in frame.sort_values("position").groupby("example", sort=False)
        for at in range(0, len(part), per_line)
    ]
    z = np.full((len(lines), per_line), math.nan)
    words, said = (np.full(z.shape, "", dtype=object) for _ in range(2))
    for row, (_, part) in enumerate(lines):
        for column, told in enumerate(part.to_dict("records")):
            wrong = bool(marked) and told.get("kind") == marked
            kind = f", {plain(told['kind'])}" if told.get("kind") else ""
            z[row, column], said[row, column] = told["value"], f"“{token_label(told['token'])}”{kind}"
            words[row, column] = (
                f"[{_short(told['token'], LETTERS - 5)}] ✗" if wrong else _short(told["token"], LETTERS)
            )
    figure = go.Figure()
    rows = list(range(len(lines)))
    place = {"z": [digits(line) for line in z], "x": list(range(per_line)), "y": rows, "text": said.tolist()}
    look = colours(pd.Series(z.ravel()), True, unit=unit) if signed else _look(z, unit)
    hover = f"token %{{text}}<br><b>%{{z:{FORMAT}}}</b> {fixed(unit)}<extra></extra>"
    figure.add_heatmap(**place, **look, xgap=1, ygap=3, hovertemplate=hover, hoverongaps=False)
    across, down = np.meshgrid(range(per_line), rows)
    light = np.abs(z) < look["zmax"] / 2 if signed else z >= (look["zmin"] + look["zmax"]) / 2
    colour = np.where(light, "#000000", "#ffffff").ravel().tolist()
    place = {"x": across.ravel().tolist(), "y": down.ravel().tolist(), "text": words.ravel().tolist()}
    figure.add_scatter(**place, mode="text", textfont={"color": colour, "size": 11}, hoverinfo="skip", showlegend=False)
    figure.update_yaxes(tickvals=rows, ticktext=[plain(name) for name, _ in lines], showgrid=False)
    figure.update_yaxes(range=[len(lines) - 0.5, -0.5])
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, range=[-0.5, per_line - 0.5])
    figure.update_layout(template=TEMPLATE, plot_bgcolor=MISSING, margin_r=90)
    return sized(figure, 120 + 30 * len(lines), 140 + 76 * per_line)


def _look(z: np.ndarray, unit: str) -> dict:
    """The scale from the least value to the greatest, as `colours` has it."""
    known = pd.Series(z.ravel()).dropna()
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return colours(known, False, (low, high), unit)


def _short(token: str, letters: int) -> str:
    return token_label(token if len(token) <= letters else token[: letters - 1] + "…")
