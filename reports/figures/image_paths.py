"""Figures of paths through the picture: heads heard at picture and text, and attention layers at each place."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import head_map, lines
from .circuits import TASK
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import unclear


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The map of paths by place, layers by place, the task."""
    return draw_all(FIGURES, tables)


def paths(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A view per place, both on one scale."""
    return head_map(unclear(rows), signed=True, view="place", unit="logits")


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    zero = [(0.0, "", "")]
    return lines(rows, "layer", by="place", y_title="logits towards the answer", reference=zero, markers=False)


FIGURES = [
    Drawing(
        "paths",
        "paths",
        {},
        "Which heads are heard at the picture, and which at the text",
        paths,
        "Fall of the answer's lead (logit of the answer − logit of the twin's) when what a head says is that of the "
        "twin prompt, and only the keys and values of the movers hear it (the heads with the strongest path to the "
        "output), at the tokens of one place: the buttons. All other heads are held.",
        "Above 0 (red): heard there, the head helps the answer; below 0 (blue): it works against it.",
        select=first_condition,
        grey="Grey: chance alone shows as much among all heads of the map (p > 0.05).",
        claims=("seen through the text",),
    ),
    Drawing(
        "layers",
        "layers",
        {},
        "Where in the prompt each attention layer does its work",
        layers,
        "Fall of the answer's lead when what a whole attention layer writes at one place is that of the twin "
        "prompt: at the picture's tokens (or the words of the things that a text tells), at the other tokens before "
        "the last, at the last.",
        "A line that rises in early layers and falls: the place is left early. Above 0 it helps the answer.",
        interval="Bands",
        select=first_condition,
        claims=("from the picture to the end",),
    ),
    TASK._replace(claims=()),
]
