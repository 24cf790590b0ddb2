"""Figures of sub-networks: how far image and text use the same weights, by layer and matrix."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all, first_condition


def figures(tables: Tables) -> dict[str, go.Figure]:
    """One panel a matrix."""
    return draw_all(FIGURES, tables)


def overlap(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="matrix", y_title="IoU", markers=False)


FIGURES = [
    Drawing(
        "overlap",
        "overlap",
        {},
        "How far image tokens and text tokens use the same weights",
        overlap,
        "IoU of the half of the weights that image tokens use most and of those that text tokens use most, by size "
        "times the norm of what is read: of queries, keys, values (Q, K, V), the heads' output (O), the MLP's (down).",
        "1: the same weights. As high as with channels permuted, it comes of the weights' sizes alone; two halves of "
        "one kind of token are the most that can be reached.",
        interval="Bands",
        control="Dotted",
        claims=("image and text use the same weights", "each has weights of its own"),
    ),
]
