"""Figures of visual_exit: what stays of the answers with the image removed behind each layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all, first_condition


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Agreement and loss; the paper's label in a fold."""
    return draw_all(FIGURES, tables)


def exits(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    figure = lines(shown, "exit", by="line", y_title=str(shown["unit"].iloc[0]), markers=False)
    return figure.update_xaxes(title_text="layers that still read the image")


REMOVED = "the image's tokens removed behind so many layers: text in the layers above does not read them."

FIGURES = [
    Drawing(
        "agreement",
        "exits",
        {"measure": "agreement"},
        "When the image may go",
        exits,
        f"Share of the answer's tokens that stay the likeliest with {REMOVED}",
        "Where the line reaches 1, what the answer needs of the image has been read. On the dotted line of the exit "
        "before the first layer, nothing has been read yet. Another image's keys and values in its place keep the "
        "length: as low as they, it is the information that is missing.",
        interval="Bands",
        control="Dotted",
        claims=("the image may go",),
    ),
    Drawing(
        "loss",
        "exits",
        {"measure": "loss"},
        "What removing the image costs",
        exits,
        f"Loss of the answer more than with the image, with {REMOVED}",
        "At 0 nothing is lost. The dotted line of random text tokens says what removing words costs, as many as the "
        "image has tokens and at most half of the text.",
        interval="Bands",
        control="Dotted",
        claims=("the image is used before",),
    ),
    Drawing(
        "allowed",
        "exits",
        {"measure": "allowed"},
        "Prompts for which the exit is allowed",
        exits,
        "Share of prompts in which all tokens of the answer stay and their loss is below 1.03 times that with the "
        "image (the paper's label).",
        "Where the loss is close to 0 already, three per cent of it is next to nothing, and the label says less than "
        "agreement does.",
        "allowed exits",
        interval="Bands",
        control="Dotted",
    ),
]
