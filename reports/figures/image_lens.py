"""Figures of the image-token lens: agreement with the object under a patch, entropy, words on the image grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, lines, token_label
from ..charts.pictures import grid_axes, on_grid
from ..charts.style import INK, UNSIGNED, axis_title, panels, sized
from .drawing import Drawing, Tables, draw_all


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Agreement and entropy by state, then the word grids of the first examples."""
    return draw_all(FIGURES, tables) | _grids(tables)


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Each place a line of its own colour: with four of them dots in one colour could not be told apart."""
    line = rows["control"].where(rows["control"] != "", "asked object")
    rows = rows.assign(line=line).drop(columns="control")
    panel = "condition" if rows["condition"].nunique() > 1 else None
    return lines(rows, "state", by="line", panel=panel, y_title="share of patches").update_yaxes(range=[0, 1.02])


def by_kind(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows[rows["condition"] == rows["condition"].iloc[0]]
    line = rows["control"].where(rows["control"] != "", "asked object")
    rows = rows.assign(line=line).drop(columns="control")
    if not 2 <= rows["subset"].nunique() <= 4:
        return None
    figure = lines(rows, "state", by="line", panel="subset", y_title="share of patches")
    return figure.update_yaxes(range=[0, 1.02])


def entropy(rows: pd.DataFrame, _: Tables) -> go.Figure:
    panel = "condition" if rows["condition"].nunique() > 1 else None
    return lines(rows, "state", by="place", panel=panel, y_title="entropy (nats)")


def word_grid(frame: pd.DataFrame, png: str) -> go.Figure:
    """The picture, and beside it the top word of every image token, coloured by its probability; a slider for the
    state.

    frame: example state row column rank token value.
    """
    figure = panels(["picture", "most likely word of each image token"], stacked=False, gap=0.04, share_values=False)
    first = frame[frame["rank"] == 1]
    height, width = first["row"].max() + 1, first["column"].max() + 1
    states = sorted(first["state"].unique())
    for state in states:
        _add_state(figure, frame[frame["state"] == state], state == states[0])
    on_grid(figure, png, (height, width), 1, 2)
    grid_axes(figure, (height, width), 2, 2)
    figure.update_layout(xaxis_domain=[0, 0.32], xaxis2_domain=[0.37, 0.98], margin_r=90, sliders=[_slider(states)])
    figure.layout.annotations[1].update(x=0.37)
    return sized(figure, 520, 900)


def _add_state(figure: go.Figure, rows: pd.DataFrame, visible: bool) -> None:
    height, width = rows["row"].max() + 1, rows["column"].max() + 1
    z, words, hovers = (np.full((height, width), fill, dtype=object) for fill in (np.nan, "", ""))
    for place in range(height * width):
        row, column = divmod(place, width)
        patch = rows[(rows["row"] == row) & (rows["column"] == column)]
        if patch.empty:
            continue
        best = patch.sort_values("rank")
        z[row, column] = float(best["value"].iloc[0])
        words[row, column] = token_label(best["token"].iloc[0][:10])
        said = (f"“{token_label(t)}” {p:.3g}" for t, p in zip(best["token"], best["value"], strict=True))
        hovers[row, column] = f"row {row}, column {column}<br>" + "<br>".join(said)
    bar = {"title": {"text": "probability", "side": "right"}, "thickness": 12, "x": 1.0}
    figure.add_heatmap(
        z=z.astype(float),
        hovertext=hovers.tolist(),
        hovertemplate="%{hovertext}<extra></extra>",
        colorscale=UNSIGNED,
        zmin=0,
        zmax=1,
        colorbar=bar,
        xgap=1,
        ygap=1,
        visible=visible,
        row=1,
        col=2,
    )
    down, across = np.indices(z.shape)
    colours = np.where(z.astype(float) >= 0.5, "#000000", "#ffffff")
    figure.add_scatter(
        x=across.ravel().tolist(),
        y=down.ravel().tolist(),
        text=words.ravel().tolist(),
        mode="text",
        textfont={"color": colours.ravel().tolist(), "size": 11},
        hoverinfo="skip",
        showlegend=False,
        visible=visible,
        row=1,
        col=2,
    )


def _slider(states: list[int]) -> dict:
    """A step per state, which shows its two traces and hides the others."""
    steps = [
        {"method": "restyle", "label": str(s), "args": ["visible", [other == s for other in states for _ in range(2)]]}
        for s in states
    ]
    current = {"prefix": f"{axis_title('state')}: ", "font": {"size": 13, "color": INK}}
    return {"active": 0, "steps": steps, "currentvalue": current, "pad": {"t": 20}, "x": 0.37, "len": 0.61}


def _grids(tables: Tables) -> dict[str, go.Figure]:
    drawn = {}
    pictures = tables.get("pictures", pd.DataFrame({"example": [], "png": []}))
    for index, (example, png) in enumerate(zip(pictures["example"], pictures["png"], strict=True)):
        rows = tables["grid"][tables["grid"]["example"] == example]
        if rows[["row", "column"]].isna().any(axis=None):  # the table `unmapped` says why
            continue
        rows = rows.astype({"row": int, "column": int})
        figure = word_grid(rows, png)
        drawn[f"grid-{index}"] = captioned(
            figure, f"Words on the picture: {example}", GRID, "grid", {"example": example}
        )
    return drawn


GRID = (
    "What the logit lens reads at every image token of one picture; move the slider to change the state. The hover "
    "text has the next words. One picture, chosen by its place in the task: an illustration, not a measurement. n = 1."
)
FIGURES = [
    Drawing(
        "agreement",
        "agreement",
        {"measure": "agreement", "subset": "all"},
        "Do image tokens decode to the object under them?",
        "Share of the asked object's patches at which the answer is the most likely of the question's possible "
        "answers. Controls: the patches of the other objects, of the background, and chance.",
        agreement,
        "Bands",
    ),
    Drawing(
        "agreement-kinds",
        "agreement",
        {"measure": "agreement"},
        "The same by kind of question",
        "As above, by kind of question.",
        by_kind,
        "Bands",
        select=lambda rows: rows[rows["subset"] != "all"],
    ),
    Drawing(
        "named",
        "agreement",
        {"measure": "named", "subset": "all"},
        "How often the answer is the first of all words",
        "Share of patches at which the answer's token is the most likely of the whole vocabulary.",
        agreement,
        "Bands",
    ),
    Drawing(
        "entropy",
        "entropy",
        {},
        "Entropy of the lens at image tokens",
        "Entropy of the lens distribution, mean over the patches of a place and over examples.",
        entropy,
        "Bands",
    ),
]
