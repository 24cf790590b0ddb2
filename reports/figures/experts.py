"""Figures of experts: what their removal costs, where tokens go, experts without a token, entropies, overlap."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, heat_map, lines
from ..charts.style import sized
from .drawing import Drawing, Tables, draw_all, first_condition

HEIGHT = 360  # px: so few rows would be flat on a phone
TAKEN = "the experts of the label"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The removal matrix, the load of every expert, experts without a token, entropies; overlap of labels."""
    return draw_all(FIGURES, tables)


def removal(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Experts in rows, texts in columns; what is taken out by buttons."""
    shown = first_condition(rows).sort_values(["removed", "evaluated"], ascending=[False, True], kind="stable")
    kind = shown["control"].fillna("").replace("", TAKEN)
    shown = shown.assign(kind=kind).rename(columns={"evaluated": "texts in", "removed": "without experts of"})
    order = shown.sort_values("kind", key=lambda column: column != TAKEN, kind="stable")
    return sized(
        heat_map(order, "texts in", "without experts of", view="kind", signed=True, unit="nats a token"), HEIGHT
    )


def load(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Texts by buttons."""
    shown = first_condition(rows).rename(columns={"label": "texts"})
    return sized(heat_map(shown, "expert", "layer", view="texts", unit="share of tokens"), HEIGHT)


def never(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = lines(first_condition(rows), "tokens", y_title="share of experts without a token")
    return figure.update_xaxes(type="log", dtick=1, title_text="tokens read")


def entropy(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", by="measure", y_title="share of the largest entropy", markers=False)


def overlap(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    pair = shown["label"] + " and " + shown["other"].where(shown["other"] != shown["label"], "itself")
    return dots(shown.assign(pair=pair), "pair", x_title="share of busiest experts in common (Jaccard)", zero=True)


def once(rows: pd.DataFrame) -> pd.DataFrame:
    """Each pair of labels once."""
    return rows[rows["label"].astype(str) <= rows["other"].astype(str)]


FIGURES = [
    Drawing(
        "removal",
        "removal",
        {},
        "What texts lose without the experts of each label",
        removal,
        "How much more the loss is without the experts that the texts of one label go to more than others (rows), for "
        "the texts of each label (columns). Experts were chosen on other texts. Buttons: those experts, or as many "
        "random ones of like load.",
        "Red on the diagonal alone: each label needs its own experts. A red row: its experts serve others too.",
        claims=("removal hurts its label",),
    ),
    Drawing(
        "load",
        "load",
        {"measure": "tokens"},
        "Which experts tokens go to",
        load,
        "Share of tokens for which an expert is chosen. Buttons: all texts, or those of one label.",
        "Chosen equally often all cells of a layer would be alike. An expert that is bright for one label alone is its "
        "own.",
        grey="Grey: layers without experts.",
        claims=("experts of one label",),
    ),
    Drawing(
        "never",
        "never",
        {},
        "Experts that no token goes to, against the number of tokens",
        never,
        "Share of all experts, of all layers, that are chosen for none of the tokens read so far; texts are added one "
        "by one, mean over ten orders.",
        "A line that still falls at its right end says that more text would find more experts in use.",
        interval="Bands",
        control="Dotted",
        claims=("few experts never active",),
    ),
    Drawing(
        "entropy",
        "entropy",
        {},
        "How sure routers are, and how evenly they spread tokens",
        entropy,
        "Entropy of a token's gates, entropy of the mean gates of all tokens, and their difference, the information "
        "that a token has about its expert; in shares of the largest that is possible, ln of the number of experts.",
        "Sure of each token and even over all: a token's gates low, mean gates near 1.",
        "gates of routers",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "overlap",
        "overlap",
        {},
        "Which labels share their busiest experts",
        overlap,
        "The busiest experts of each layer, as many as a token has, of one label in half of the groups and of another "
        "in the other half: those in common over those of either.",
        "Left of the grey ticks two labels share fewer than texts at random; a label and itself say how stable the "
        "choice is.",
        "shared experts",
        interval="Whiskers",
        control="Grey",
        select=once,
    ),
]
