"""Figures of the learned lenses: tuned lens and Attention Lens against the logit lens, by layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, lines, shaded_words
from .drawing import Drawing, Tables, draw_all


def figures(tables: Tables) -> dict[str, go.Figure]:
    """All lenses by state, the heads of a layer, the bias, the comparisons."""
    return draw_all(FIGURES, tables)


def _several(rows: pd.DataFrame) -> str | None:
    """A panel per condition where there are several."""
    return "condition" if rows["condition"].nunique() > 1 else None


def by_state(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows[rows["value"] > 1e-4]
    return lines(rows, "state", by="lens", panel=_several(rows), log_y=True, y_title="KL to the output (nats)")


def top1(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "state", by="lens", panel=_several(rows), y_title="share of positions").update_yaxes(
        range=[0, 1.02]
    )


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(place="layer " + rows["layer"].astype(int).astype(str))
    return bars(rows, "place", by="lens", panel=_several(rows))


def bias(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows[rows["value"] > 1e-4]
    return lines(rows, "state", by="lens", panel=_several(rows), log_y=True, y_title="marginal KL (nats)")


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
        "How far each lens is from the output",
        "KL of the model's output to what the lens reads, mean over held-out positions; logarithmic. Logit lens and "
        "tuned lens read the residual; the Attention Lens reads the heads of one layer alone, drawn at the state that "
        "the layer writes. The last state is the output itself and has no distance.",
        by_state,
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "top1",
        "kl",
        {"measure": "top1"},
        "How often each lens names the model's own next token",
        "Share of held-out positions at which the most likely token of the lens is the model's.",
        top1,
        interval="Bands",
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "What the heads of a layer say together",
        "KL of the model's output to what is read from the sum of a layer's heads: by the learned maps of the "
        "Attention Lens, and by three ways without learning: the direct effect (final norm held at the scale of the "
        "last residual), the unembedding behind the final norm, and the unembedding alone.",
        heads,
        interval="Whiskers",
    ),
    Drawing(
        "bias",
        "bias",
        {},
        "Is the lens right on average?",
        "KL of the model's mean output to the lens's mean output, over the 511 most frequent tokens of the training "
        "text and one class for all others, which makes it a lower bound; logarithmic.",
        bias,
        interval="Bands",
    ),
    Drawing(
        "words",
        "head_words",
        {"rank": 1},
        "What each head says, word by word",
        "The likeliest token of each head's output at the last position of one prompt, heads from left to right: by "
        "its learned map, and without learning, z · W_O · W_U. The table has the next words. An illustration, n = 1.",
        words,
        select=lambda rows: rows[rows["condition"] == rows["condition"].iloc[0]],
    ),
]
