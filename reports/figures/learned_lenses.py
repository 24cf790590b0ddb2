"""Figures of the learned lenses: tuned lens and Attention Lens against the logit lens, by layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, lines, shaded_words
from .drawing import Drawing, Tables, draw_all, first_condition

LEAST = 1e-4  # nats; below lies the output itself


def figures(tables: Tables) -> dict[str, go.Figure]:
    """All lenses by state, the heads of a layer, the bias, the comparisons."""
    return draw_all(FIGURES, tables)


def by_state(y_title: str):
    """A line per lens; logarithmic, without the output itself."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
        rows = rows[rows["value"] > LEAST]
        if rows.empty:
            return None
        return lines(rows, "state", by="lens", panel="condition", log_y=True, y_title=y_title)

    return draw


def top1(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = lines(rows, "state", by="lens", panel="condition", y_title="share of positions")
    return figure.update_yaxes(range=[0, 1.02])


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(place="layer " + rows["layer"].astype(int).astype(str))
    return dots(rows, "place", by="lens", panel="condition")


def words(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The likeliest token of every head of the first example, line by line."""
    first = rows[rows["example"] == rows["example"].iloc[0]]
    line = first["lens"] + ", layer " + first["layer"].astype(int).astype(str)
    return shaded_words(first.assign(example=line, position=first["head"]), unit="logits")


FIGURES = [
    Drawing(
        "kl",
        "kl",
        {"measure": "kl"},
        "How far each lens is from the model's output",
        by_state("KL to the output (nats)"),
        "KL of the model's output to what the lens reads, mean over held-out positions; logarithmic. What reads the "
        "heads of one layer alone is drawn at the state that the layer writes.",
        "Lower is nearer; a constant that is as near has learned as much. The last state is the output itself and has "
        "no distance.",
        interval="Bands",
        control="Dotted",
        claims=("tuned lens is closer",),
    ),
    Drawing(
        "top1",
        "kl",
        {"measure": "top1"},
        "How often each lens names the model's own next token",
        top1,
        "Share of held-out positions at which the most likely token of the lens is the model's.",
        "1: at every position.",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "What the heads of a layer say together",
        heads,
        "KL of the model's output to what is read from the sum of a layer's heads, by each way of reading it that was "
        "measured: learned maps, or without learning the direct effect (final norm held at the scale of the last "
        "residual), the unembedding behind the final norm, and the unembedding alone.",
        "Further left is nearer to the output.",
        interval="Whiskers",
        control="Grey ticks",
        claims=("learned heads are closer",),
    ),
    Drawing(
        "bias",
        "bias",
        {},
        "Is the lens right on average?",
        by_state("KL of the means (nats)"),
        "KL of the model's mean output to the lens's mean output, over the 511 most frequent tokens of the training "
        "text and one class for all others, which makes it a lower bound; logarithmic.",
        "Lower is less biased. A resampled KL of means is larger than the KL itself, so a band may lie above its line.",
        "checks",
        "Bands",
        "Dotted",
        claims=("tuned lens is hardly biased",),
    ),
    Drawing(
        "words",
        "head_words",
        {"rank": 1},
        "What each head says, word by word",
        words,
        "The likeliest token of each head's output at the last position of one prompt, heads from left to right, by "
        "each way of reading it.",
        "Bright: more logits. The table has the next words. An illustration.",
        "words",
        select=first_condition,
    ),
]
