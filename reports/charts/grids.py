"""One prompt as a map: tokens by state and position."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .colours import colours
from .hovers import FORMAT
from .style import MISSING, TEMPLATE, axis_title, check_rows, digits, plain, sized, token_label


def token_grid(frame: pd.DataFrame, *, value: str = "value", text: str = "top", unit: str = "probability") -> go.Figure:
    """State × position map of one prompt: colour is `value` (0 to 1), the cell's text the token in `text`.

    Columns: state, position, token (what is read at that position), `text`, `value`. Positions are
    numbered, so two equal tokens stay two columns; every token is escaped (see `token_label`).
    """
    check_rows(frame, ("position", "state"))
    columns, rows = sorted(frame["position"].unique()), sorted(frame["state"].unique())
    z = np.full((len(rows), len(columns)), math.nan)
    shown, said = (np.full(z.shape, "", dtype=object) for _ in range(2))
    for record in frame.to_dict("records"):
        at = rows.index(record["state"]), columns.index(record["position"])
        z[at], shown[at], said[at] = record[value], _short(record[text]), token_label(record[text])
    figure = go.Figure()
    cells = {"z": [digits(line) for line in z], "x": columns, "y": rows, "text": said.tolist(), "xgap": 1, "ygap": 1}
    place = "state %{y}, position %{x}<br>most likely next: “%{text}”"
    hover = f"{place}<br><b>%{{z:{FORMAT}}}</b> {plain(unit)}<extra></extra>"
    look = colours(frame[value], False, (0, 1), unit)
    figure.add_heatmap(**cells, **look, hovertemplate=hover, hoverongaps=False)
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
    """The cells' words, white on the dark half of the scale and black on the light one."""
    colour = np.where(z >= 0.5, "#000000", "#ffffff")
    across, up = np.meshgrid(columns, rows)
    place = {"x": across.ravel().tolist(), "y": up.ravel().tolist(), "text": shown.ravel().tolist()}
    font = {"color": colour.ravel().tolist(), "size": 11}
    return go.Scatter(**place, mode="text", textfont=font, hoverinfo="skip", showlegend=False)


def _short(token: str, length: int = 9) -> str:
    return token_label(token if len(token) <= length else token[: length - 1] + "…")
