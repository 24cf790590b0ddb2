"""Figures of attention_profile: width and neighbourhood by layer and head, long contexts, ranks, heads' differences."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views

NEAR = (
    "attention on the first token",
    "attention on the token before, sink twin",
    "R² of own, previous and first token",
)
WIDTH = ("entropy", "entropy, sink twin", "entropy of the heads' mean")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Curves over layers, maps of heads, entropy by context, ranks; overload and the law of ln A in folds."""
    return draw_all(FIGURES, tables)


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="measure", y_title="share", markers=False)


def width(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="measure", y_title="nats", markers=False)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = first_condition(rows)
    return head_map(views(rows), panel="measure", view="view", unit=str(rows["unit"].iloc[0]))


def lengths(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    one = [(1.0, "uniform attention", "")]
    return lines(shown, "keys", by="line", panel="measure", y_title="share of uniform", reference=one)


def by_layer(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="measure", y_title=str(rows["unit"].iloc[0]), markers=False)


def overload(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "yardstick", panel="part", x_title="share of heads")


def law(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(first_condition(rows), panel="measure", signed=True, unit="0 of a normal law")


FIGURES = [
    Drawing(
        "layers",
        "layers",
        {},
        "First token, token before, trivial patterns",
        layers,
        "Mean over a layer's heads: attention on the first token; on the token before, without the first; what own "
        "token, previous and first explain of the maps.",
        "Such patterns explain a part of uniform attention's maps as well.",
        interval="Bands",
        control="Dotted",
        select=lambda rows: rows[rows["measure"].isin(NEAR)],
        claims=("attention is local", "trivial patterns"),
    ),
    Drawing(
        "indicators",
        "indicators",
        {"measure": "entropy, sink twin"},
        "How widely each head spreads its attention",
        heads,
        "Entropy of a row by head, mean over rows behind the first, without the first token (the sink twin), in nats.",
        "Bright: many keys get some; dark: few keys get all.",
        claims=("heads in the middle",),
    ),
    Drawing(
        "lengths",
        "lengths",
        {},
        "How widely, by the length of the context",
        lengths,
        "Entropy of a row over ln of the keys that it sees, mean over layers and heads, by the number of keys "
        "(doublings, each from this number on); left as it is, right without the first token.",
        "Where it falls, attention covers a smaller part of a longer context. Only what falls below the dotted line of "
        "shuffled tokens is due to what the text says.",
        interval="Bands",
        control="Dotted",
        claims=("wider in long contexts",),
    ),
    Drawing(
        "maps",
        "maps",
        {},
        "Ranks of the maps",
        by_layer,
        "Rank, and effective rank (exp of the entropy of the singular values), of each head's map with its diagonal "
        "set to 0, over the largest possible, mean over heads, of the first tokens of a prompt.",
        "Uniform attention has full rank: a high rank is not much use. Between the lines of shuffled rows and measured "
        "ones lies what is more than the rows' sharpness.",
        interval="Bands",
        control="Dotted",
        select=lambda rows: rows[rows["measure"].isin(("rank", "effective rank"))],
        claims=("layers by rank",),
    ),
    Drawing(
        "apart",
        "maps",
        {},
        "How far the heads of a layer are apart",
        by_layer,
        "Jensen–Shannon divergence of the rows of two heads of a layer, mean over pairs and rows, in nats (at most "
        ".69), as it is and without the first token.",
        "Dotted: between a head and another whose rows have their keys shuffled: as sharp, in unrelated places.",
        "heads apart",
        interval="Bands",
        control="Dotted",
        select=lambda rows: rows[rows["measure"].str.startswith("divergence")],
        claims=("heads are apart",),
    ),
    Drawing(
        "width",
        "layers",
        {},
        "Entropy by layer",
        width,
        "Entropy of a row, mean over a layer's heads; without the first token; of the mean of the heads' maps.",
        "The mean map is wider than its heads where they look at different keys. Dotted: uniform attention.",
        "entropy",
        interval="Bands",
        control="Dotted",
        select=lambda rows: rows[rows["measure"].isin(WIDTH)],
    ),
    Drawing(
        "overload",
        "overload",
        {},
        "Sharp, middle and overloaded heads",
        overload,
        "Share of a prompt's heads whose entropy is above three quarters, and between a quarter and three quarters, of "
        "the largest.",
        "By the largest head that was seen some head is always overloaded; by uniform attention none has to be.",
        "entropy",
        interval="Whiskers",
        claims=("heads in the middle",),
    ),
    Drawing(
        "near",
        "indicators",
        {"measure": "attention on the token before, sink twin"},
        "Which heads look at the token before",
        heads,
        "Attention of a row on the token before, by head, without the first token.",
        "",
        "near heads",
    ),
    Drawing(
        "first",
        "indicators",
        {"measure": "attention on the first token"},
        "Which heads attend to the first token",
        heads,
        "Attention of a row on the first token, by head.",
        "",
        "near heads",
    ),
    Drawing(
        "trivial",
        "indicators",
        {"measure": "R² of own, previous and first token"},
        "Which maps are trivial",
        heads,
        "Share of the variance of a head's map that own token, previous token and first token explain.",
        "",
        "near heads",
    ),
    Drawing(
        "law",
        "law",
        {},
        "Is ln A normal?",
        law,
        "Skewness and excess kurtosis of ln A within rows, by head; both are 0 of a normal law.",
        "Red: a longer tail of large attention than of small (skewness), heavier tails (kurtosis).",
        "law of attention",
        select=lambda rows: rows[rows["measure"].isin(("skewness", "excess kurtosis"))],
        claims=("about log-normal",),
    ),
]
