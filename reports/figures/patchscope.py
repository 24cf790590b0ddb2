"""Figures of the patchscope: how often the next token is named from each layer's state, and its rank."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all


def figures(tables: Tables) -> dict[str, go.Figure]:
    """How often the next token is named, and its rank among all words."""
    return draw_all(FIGURES, tables)


def shares(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "layer", by="way", panel="condition", y_title="share of prompts").update_yaxes(range=[0, 1.02])


def ranks(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The first at the top."""
    figure = lines(rows, "layer", by="way", panel="condition", log_y=True, y_title="median rank, 1 = first")
    return figure.update_yaxes(autorange="reversed")


def one_way(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The controls apart, in colours of their own."""
    return shares(rows.assign(way="patchscope"), _)


def nearest(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the random direction, which has a figure of its own."""
    return rows[rows["control"] != RANDOM]


RANDOM = "a random direction of the same norm"
WAY = "The state that enters a layer at the end of a prompt is put into another prompt, which repeats tokens."
FIGURES = [
    Drawing(
        "named",
        "named",
        {"measure": "named"},
        "How often the model says what the state holds",
        shares,
        "Share of prompts whose next token, as the model itself says it, comes out when their state is put into "
        f"another prompt in the same layer, or is read by the logit lens. {WAY}",
        "A patchscope's line above the logit lens': the model reads more in the state than the unembedding does. "
        "Dotted: how often another state would have said that token.",
        interval="Bands",
        control="Dotted",
        select=nearest,
        claims=("the model names it itself",),
    ),
    Drawing(
        "rank",
        "named",
        {"measure": "rank"},
        "The rank of the next token",
        ranks,
        f"Median rank of that token among all words; logarithmic, the first at the top. {WAY}",
        "Higher is nearer to being said.",
        interval="Bands",
        control="Dotted",
        select=nearest,
    ),
    Drawing(
        "controls",
        "named",
        {"measure": "named", "way": "patchscope"},
        "What any state would have said",
        one_way,
        f"The same share beside both controls. {WAY}",
        "Where the line is no higher than the dotted ones, the state itself is not what is said.",
        theme="both controls",
        interval="Bands",
        control="Dotted",
    ),
]
