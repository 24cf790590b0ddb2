"""Figures of redundancy: what leaving layers out costs, how far they turn the residual, what tells the cost before."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition

ZERO = [(0.0, "", "")]


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Curves of leaving out, importance, prediction; single costs, vision, entropy and inner activations in folds."""
    return draw_all(FIGURES, tables)


def curves(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = lines(first_condition(rows), "share", by="order", panel="part", y_title="nats a token", reference=ZERO)
    return figure.update_xaxes(title_text="share of the layers left out")


def by_part(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each kind of module, itself and its controls over the layers."""
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="part", y_title=_unit(shown), reference=ZERO, markers=False)


def by_layer(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", y_title=_unit(shown), reference=ZERO, markers=False)


def predictions(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "part", x_title="rank correlation", zero=True)


def energies(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="inside", y_title="share of energy", markers=False)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(first_condition(rows), unit="times the layer's mean")


def _unit(rows: pd.DataFrame) -> str:
    return str(rows["unit"].iloc[0])


LEFT_OUT = "A module is left out where it adds to the stream: it adds nothing, and all layers above read what is left."

FIGURES = [
    Drawing(
        "curves",
        "curves",
        {"measure": "loss"},
        "What leaving out a share of the layers costs",
        curves,
        "The loss more than the whole model's, with a share of the blocks (whole layers), of the attention layers or "
        "of the MLPs left out: the deepest first, or those that turn the residual least on other examples.",
        "Near 0, those layers are not needed. Only below the dotted line (layers drawn at random) has an order chosen "
        "well. A guess among all words alike costs the ln of their number, 9 to 12 nats.",
        interval="Bands",
        control="Dotted",
        claims=("a third of the attention", "the least important third", "attention before MLPs"),
    ),
    Drawing(
        "skips",
        "skips",
        {"measure": "loss"},
        "What leaving out one module costs",
        by_part,
        f"The loss more than the whole model's, layer by layer. {LEFT_OUT}",
        "Where the line is high and the dotted one low, the module's mean would have done, with the first token's own "
        "update: what it writes for each later token in particular is not needed.",
        "one at a time",
        interval="Bands",
        control="Dotted",
        claims=("deep attention is redundant",),
    ),
    Drawing(
        "importance",
        "importance",
        {},
        "How far each module turns the residual stream",
        by_part,
        "1 − cosine of the residual stream before and after a module has added to it, mean over tokens without the "
        "first.",
        "On the dotted line of an orthogonal update, only the update's size is seen: deep layers look redundant where "
        "the stream has grown. Below it, the module makes what is there longer; above, it takes away.",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "predictions",
        "predictions",
        {},
        "Whether that tells what leaving a module out costs",
        predictions,
        "Rank correlation over layers of 1 − cosine with the loss that leaving the module out costs.",
        "1: the order is the same. Right of the grey ticks it tells more than the size of the update, or depth, alone.",
        interval="Whiskers",
        control="Grey",
        claims=("importance predicts loss",),
    ),
    Drawing(
        "vision",
        "vision",
        {"measure": "loss"},
        "Layers that the image needs",
        by_layer,
        "What leaving out one block costs, with the image and for the same prompts without it.",
        "Above the dotted line the layer matters more where there is an image to be read.",
        "with the image",
        interval="Bands",
        control="Dotted",
        claims=("layers for vision",),
    ),
    Drawing(
        "top-1",
        "skips",
        {"measure": "top-1"},
        "Right tokens lost by leaving out one module",
        by_part,
        "Share of tokens that are the likeliest, minus the whole model's share.",
        "Below 0 answers are lost.",
        "one at a time",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "entropy",
        "entropy",
        {},
        "What a layer's attention does to the entropy of the last state",
        by_layer,
        "Transfer entropy: how far the sum over channels of ln of their standard deviation over prompts, behind the "
        "final norm at the last position, changes where a layer's attention is left out.",
        "As high as the dotted line, it is the attention's mean that does it. Channels are taken as independent, and "
        "with few prompts both lines are too high.",
        "entropy",
        interval="Bands",
        control="Dotted",
        claims=("entropy predicts loss",),
    ),
    Drawing(
        "energies",
        "energies",
        {"share": 3 / 16},
        "How much of the energy the largest dimensions hold",
        energies,
        "Share of the sum of squares in the largest 3/16 of the dimensions, within a prompt: of what the heads give "
        "(z), of that times the norm of what their output matrix writes for it, and of the MLP's neurons; without the "
        "first token.",
        "Far above the dotted line, few dimensions do most. That the others can be cut is not shown.",
        "inner activations",
        interval="Bands",
        control="Dotted",
        claims=("few dimensions of z",),
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "Heads with large activations",
        heads,
        "TransAct's score of a head, mean + (10 / d_head) · maximum over its dimensions of √Σ act², over the mean of "
        "its layer's heads.",
        "1 is an average head of its layer.",
        "inner activations",
    ),
]
