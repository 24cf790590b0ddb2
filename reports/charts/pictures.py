"""Charts over pictures, which keep their shape: one cell per image token, laid over what it comes from."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .colours import colours
from .hovers import FORMAT
from .style import COLOURS, INK, TEMPLATE, axis_title, digits, grid_of, panels, place, plain, sized, token_label

CELLS = 8000  # image tokens of all states together that one figure holds; more are shown at fewer states
VEIL = [[0, "rgba(255,255,255,0.55)"], [1, "rgba(230,159,0,0.9)"]]  # over a picture: words stay legible on it
SIDE = 430  # px, of a picture


def picture_maps(
    frame: pd.DataFrame, pictures: pd.DataFrame, *, flag: str, unit: str, signed: bool = False
) -> go.Figure:
    """Pictures side by side, each cell coloured by its value; cells with `flag` are framed.

    frame: example row column value and the flag. pictures: example png. signed: colours symmetric about 0.
    """
    count = len(pictures)
    figure = panels([f"picture {i}" for i in range(1, count + 1)], stacked=False, gap=0.03, share_values=False)
    scale = colours(frame["value"], signed, unit=unit)
    axis = {"cmin": scale["zmin"], "cmax": scale["zmax"], "colorscale": scale["colorscale"]}
    for index, (example, png) in enumerate(zip(pictures["example"], pictures["png"], strict=True), 1):
        part = frame[frame["example"] == example]
        on_grid(figure, png, (part["row"].max() + 1, part["column"].max() + 1), index, count)
        where = {"x": part["column"].tolist(), "y": part["row"].tolist(), **place(index, count)}
        said = f"{plain(example)}<br>row %{{y}}, column %{{x}}<br><b>%{{z:{FORMAT}}}</b> {plain(unit)}<extra></extra>"
        cells = {"z": digits(part["value"]), "hovertemplate": said, "opacity": 0.5, "coloraxis": "coloraxis"}
        figure.add_heatmap(**where, **cells, name=plain(example))
        framed = part[part[flag]]
        marker = {"symbol": "square-open", "size": 16, "color": COLOURS[1], "line": {"width": 3}}
        where |= {"x": framed["column"].tolist(), "y": framed["row"].tolist()}
        figure.add_scatter(**where, mode="markers", marker=marker, hoverinfo="skip", showlegend=False)
    figure.update_layout(coloraxis={**axis, "colorbar": scale["colorbar"]}, margin_r=90)
    return sized(figure, 330 * grid_of(count)[0], 900)


def word_pictures(
    frame: pd.DataFrame, pictures: pd.DataFrame, unit: str = "probability", middle: bool = False
) -> go.Figure:
    """The likeliest word of every image token, over its picture; buttons choose the picture, a slider the state.

    frame: example state row column rank token value (0…1, in `unit`). pictures: example png, and question and answer
    where they are known: a title over each. One trace a state holds all pictures side by side, and the buttons move the
    window over them. It begins with the last state, or with the middle one.
    """
    shapes = frame.groupby("example")[["row", "column"]].max() + 1
    starts = dict(zip(shapes.index, np.cumsum([0, *(shapes["column"] + 1)]).tolist(), strict=False))
    frame = frame.assign(at=frame["column"] + frame["example"].map(starts))
    figure = go.Figure()
    states = _few(sorted(int(state) for state in frame["state"].unique()), len(frame[frame["rank"] == 1]))
    first = states[len(states) // 2 if middle else -1]
    for state in states:
        for trace in _words(frame[frame["state"] == state], state == first, unit):
            figure.add_trace(trace)
    windows = []
    for example, png, title in zip(pictures["example"], pictures["png"], _titles(pictures), strict=True):
        height, width = (int(n) for n in shapes.loc[example])
        left = starts[example] - 0.5
        lies = {"x": left, "y": -0.5, "sizex": width, "sizey": height, "xref": "x", "yref": "y"}
        figure.add_layout_image(source=f"data:image/png;base64,{png}", sizing="stretch", layer="below", **lies)
        figure.add_annotation(x=left, y=-0.5, text=title, **OVER)
        windows.append({"xaxis.range": [left, left + width], "yaxis.range": [height - 0.5, -0.5]})
    figure.update_xaxes(range=windows[0]["xaxis.range"], constrain="domain", **BARE)
    figure.update_yaxes(range=windows[0]["yaxis.range"], scaleanchor="x", constrain="domain", **BARE)
    head = HEAD if len(windows) > 1 else HEAD // 2
    figure.update_layout(template=TEMPLATE, margin={"r": 90, "t": head}, sliders=[_slider(states, first)])
    if len(windows) > 1:
        figure.update_layout(updatemenus=[_picker(windows)])
    return sized(figure, SIDE + 124 + head, 560)


# A title over a picture, hidden with it where the window is elsewhere.
OVER: dict[str, Any] = {"xanchor": "left", "yanchor": "bottom", "align": "left", "showarrow": False, "yshift": 2}
HEAD, LETTERS = 112, 58  # px over a picture for buttons and a title of two lines; letters of a line


def _titles(pictures: pd.DataFrame) -> list[str]:
    """ "What colour is the circle? → red", in lines; the example's name where it is not known what was asked."""
    told = pictures.reindex(columns=["question", "answer"]).fillna("").astype(str)
    said = [
        f"{q.strip()} → {a.strip()}" if q.strip() else "" for q, a in zip(told["question"], told["answer"], strict=True)
    ]
    names = [one or str(name) for one, name in zip(said, pictures["example"], strict=True)]
    return ["<br>".join(plain(line) for line in wrap(name, LETTERS)[:2]) for name in names]


BARE: dict[str, Any] = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "showline": False}


def _few(states: list, cells: int) -> list:
    """Every state, or as many, evenly, as the figure can hold; the first and the last are among them."""
    keep = max(3, CELLS * len(states) // max(cells, 1))
    if keep >= len(states):
        return states
    return [states[i] for i in np.unique(np.linspace(0, len(states) - 1, keep).round().astype(int))]


def _words(rows: pd.DataFrame, visible: bool, unit: str) -> list[Any]:
    """The veil with the values, and the words, of one state; nothing between the pictures."""
    rows = rows.sort_values("rank")
    best = rows[rows["rank"] == 1]
    words = rows.groupby(["row", "at"])["token"].agg(lambda of: ", ".join(f"“{token_label(t)}”" for t in of))
    shape = int(best["row"].max()) + 1, int(best["at"].max()) + 1
    z, said = np.full(shape, None, dtype=object), np.full(shape, None, dtype=object)
    for row, at, value in zip(best["row"], best["at"], digits(best["value"]), strict=True):
        z[row, at], said[row, at] = value, words[row, at]
    hover = f"row %{{y}}<br>%{{customdata}}<br><b>%{{z:{FORMAT}}}</b> {unit} of the first<extra></extra>"
    bar = {"title": {"text": unit, "side": "top", "font": {"size": 11.5}}, "thickness": 12, "outlinewidth": 0}
    look = {"colorscale": VEIL, "zmin": 0, "zmax": 1, "colorbar": bar, "xgap": 1, "ygap": 1, "hoverongaps": False}
    told = {"customdata": said.tolist(), "hovertemplate": hover, "visible": visible}
    veil = go.Heatmap(z=z.tolist(), x=list(range(shape[1])), y=list(range(shape[0])), **look, **told)
    where = {"x": best["at"].tolist(), "y": best["row"].tolist(), "text": [token_label(t[:9]) for t in best["token"]]}
    font = {"color": "#000000", "size": 12}
    text = go.Scatter(**where, mode="text", textfont=font, hoverinfo="skip", showlegend=False, visible=visible)
    return [veil, text]


def _slider(states: list, first: int) -> dict[str, Any]:
    """A step per state, which shows its two traces and hides the others."""
    steps = [
        {"method": "restyle", "label": str(s), "args": ["visible", [other == s for other in states for _ in range(2)]]}
        for s in states
    ]
    current = {"prefix": f"{axis_title('state')}: ", "font": {"size": 13, "color": INK}}
    return {"active": states.index(first), "steps": steps, "currentvalue": current, "pad": {"t": 20}}


def _picker(windows: list[dict[str, Any]]) -> dict[str, Any]:
    buttons = [{"label": f"picture {i}", "method": "relayout", "args": [w]} for i, w in enumerate(windows, start=1)]
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 44}}
    return {"type": "buttons", "direction": "right", "buttons": buttons, "font": {"size": 11.5, "color": INK}, **place}


def on_grid(figure: go.Figure, png: str, shape: tuple[int, int], index: int, count: int) -> None:
    """A picture under panel `index` of `count`: cell (row, column) of `shape` lies over its part of the picture."""
    axis = "" if index == 1 else str(index)
    lies = {"x": -0.5, "y": -0.5, "sizex": shape[1], "sizey": shape[0], "xref": f"x{axis}", "yref": f"y{axis}"}
    figure.add_layout_image(source=f"data:image/png;base64,{png}", sizing="stretch", layer="below", **lies)
    figure.update_xaxes(range=[-0.5, shape[1] - 0.5], constrain="domain", **BARE, **place(index, count))
    square = {"scaleanchor": f"x{axis}", "constrain": "domain"}
    figure.update_yaxes(range=[shape[0] - 0.5, -0.5], **square, **BARE, **place(index, count))
