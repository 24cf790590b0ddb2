"""Figures of relations: how far two models' relations lie apart, layer by layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all, first_condition


def figures(tables: Tables) -> dict[str, go.Figure]:
    """By layer, of queries, keys and values: over another text's divergence, and in nats."""
    return draw_all(FIGURES, tables)


def by_layer(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="beside " + rows["reference"].astype(str))
    unit = str(rows["unit"].iloc[0])
    title = "share of another text's divergence" if unit != "nats" else "divergence, nats"
    return lines(shown, "layer", by="line", panel="kind", log_y=True, y_title=title, markers=False)


FIGURES = [
    Drawing(
        "shares",
        "shares",
        {},
        "How far apart the two models are in each layer",
        by_layer,
        "Divergence of the two models' relations on the same text, over that of this model's own relations on two "
        "texts, layer by layer. Relations: how alike the tokens' queries (or keys, or values) are with each other.",
        "Near 0: the layer relates tokens as the other model's does. At 1 the models differ as two texts do. A layer "
        "that rises above its neighbours is where the models part. Where texts hardly differ (values of the "
        "first layer) a share says little.",
        interval="Bands",
        control="Dotted",
        claims=("related models relate alike",),
    ),
    Drawing(
        "layers",
        "layers",
        {},
        "The same in nats, beside another text",
        by_layer,
        "Divergence of the relations, mean over relation heads and tokens, layer by layer.",
        "Layers whose queries or keys are long have sharp relations, which lie far apart for any pair of texts: "
        "compare with the control of the same layer.",
        interval="Bands",
        control="Dotted",
        claims=("the upper layers were changed most",),
    ),
]
