"""Figures of layer_similarity: which layers attend alike, what replaced patterns cost, rollout, reach."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, heat_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Likeness of layers, costs of swaps, neighbours, reach; rollout and removed entries in folds."""
    return draw_all(FIGURES, tables)


def likeness(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """What is left of likeness first: the plain cosine is bright everywhere."""
    shown = first_condition(rows)[::-1].rename(columns={"other": "other layer"})
    over = [name for name in shown["measure"].unique() if name.endswith("uniform")]
    return heat_map(shown, "layer", "other layer", view="measure", signed=over, unit="cosine")


def costs(rows: pd.DataFrame, _: Tables) -> go.Figure:
    zero = [(0.0, "", "")]
    return lines(first_condition(rows), "layer", by="instead", y_title="nats a token", reference=zero, markers=False)


def neighbours(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="of", y_title="cosine", markers=False)


def reach(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layers", by="threshold", y_title="share of positions")


def rollout(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="of", y_title="share of the state", markers=False)


def removed(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "removed", x_title="nats a token", zero=True)


FIGURES = [
    Drawing(
        "likeness",
        "likeness",
        {},
        "Which layers attend alike",
        likeness,
        "Cosine of the mean maps of every two layers, without the first token (the sink twin) and minus what both "
        "share with uniform attention; by the buttons as it is.",
        "As it is, nearly all layers are alike: they share the first token and the length. What is red in "
        "the sink twin over uniform attention is likeness.",
        claims=("neighbours attend alike",),
    ),
    Drawing(
        "costs",
        "costs",
        {},
        "What it costs to use another pattern",
        costs,
        "How much more the loss is where a layer attends as the layer below, as itself on shuffled tokens, or alike to "
        "all tokens; one layer at a time.",
        "Near 0 the layer's own pattern is not needed. Where the layer below does no better than shuffled tokens, it "
        "is not likeness that helps.",
        interval="Bands",
        claims=("another layer's pattern will do", "likeness predicts the cost"),
    ),
    Drawing(
        "neighbours",
        "neighbours",
        {"measure": "sink twin"},
        "Neighbouring layers and their heads",
        neighbours,
        "Cosine without the first token: left of the mean maps of a layer and the one before, right of each head with "
        "the most like head of the layer before, mean over heads.",
        "Dotted: what both share with uniform attention; the most like of heads whose rows have their keys shuffled.",
        interval="Bands",
        control="Dotted",
        claims=("neighbours attend alike",),
    ),
    Drawing(
        "reach",
        "reach",
        {},
        "How far attention reaches within so many layers",
        reach,
        "Share of the prompt's first tokens that the last of them reaches through entries of any head above a "
        "threshold, within so many layers from the top.",
        "Dotted: as many random entries in each row. They reach nearly all in few layers as well: few hops say little.",
        interval="Bands",
        control="Dotted",
        claims=("few hops reach all",),
    ),
    Drawing(
        "rollout",
        "rollout",
        {},
        "Attention rolled out over layers",
        rollout,
        "Share of the last position's state that comes from the first token, the last eight and the image, if "
        "attention and the residual stream were all there is.",
        "Dotted: uniform attention in all layers. Values and MLPs are ignored.",
        "rollout",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "removed",
        "removed",
        {},
        "What weak entries of attention do",
        removed,
        "How much more the loss is with all entries up to .01 removed in all layers and heads, rows renormalised; and "
        "with as many random entries.",
        "",
        "weak entries",
        interval="Whiskers",
        claims=("weak entries do little",),
    ),
]
