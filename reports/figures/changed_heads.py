"""Figures of changed heads: every head in both models, the change on the map, and its size by layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines, scatter
from .circuits import label
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import unclear

LAST = "patched at the last position"
EFFECT = (
    "A head's effect: what the answer's lead (logit of the answer − logit of the twin's) loses where the head's output "
    "at the last position is that of the twin prompt"
)


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Both models' heads against each other, the map of the change, its size by layer, what was kept, the task."""
    return draw_all(FIGURES, tables)


def both(rows: pd.DataFrame, _: Tables) -> go.Figure:
    titles = ("effect in the other model (logits)", "effect in this model (logits)")
    return scatter(
        rows.assign(label=label(rows)), "there", "here", "label", titles=titles, panel="measure", diagonal=True
    )


def change(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(unclear(rows), signed=True, view="measure", unit="logits")


def sizes(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(
        rows, "layer", by="line", panel="measure", y_title="logits (root mean square over heads)", markers=False
    )


def kept(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "pair", panel="measure").update_xaxes(range=[min(-0.1, float(rows["value"].min()) - 0.05), 1.1])


def task(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(scale=rows["unit"].replace({"share": "share of prompts"}))
    return dots(rows, "measure", by="model", panel="scale")


FIGURES = [
    Drawing(
        "scatter",
        "heads",
        {},
        "Do the same heads carry the task in both models?",
        both,
        f"Every head in both models. {EFFECT}; beside it, only its path to the output, every other head held.",
        "On the dashed line a head gives the answer as much in both. Far above it: more in this model.",
        select=first_condition,
        claims=("the same heads carry the task",),
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "What the training changed, head by head",
        change,
        f"{EFFECT}. Shown: this model's effect minus the other's on the same prompts; the buttons: at the last "
        "position, and on the path to the output alone.",
        "Above 0 (red): the head gives the answer more in this model; below 0 (blue): less.",
        select=first_condition,
        grey="Grey: chance alone shows as much among all heads of the map (p > 0.05).",
        claims=("few heads were changed",),
    ),
    Drawing(
        "layers",
        "layers",
        {},
        "How large the change is, layer by layer",
        sizes,
        "Root mean square over a layer's heads: of the change, and of the effects in the other model.",
        "A change below its dotted line is no more than two halves of the same prompts differ by in the other model. "
        "A change near the other line: the layer's heads do something else.",
        interval="Bands",
        control="Dotted",
        select=first_condition,
        claims=("heads were changed",),
    ),
    Drawing(
        "kept",
        "kept",
        {},
        "How alike the two maps of heads are",
        kept,
        "Rank correlation (Spearman) of the heads' effects: between both models, and between two halves of the prompts "
        "in one model, which is as high as noise allows with half of the prompts.",
        "1: both models' heads have the same order. Both models read the same prompts, two halves do not: the models "
        "can be more alike than the halves of one. The tick is what the place in depth alone gives: each head beside "
        "the others of its layer.",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
        claims=("the same heads carry the task",),
    ),
    Drawing(
        "task",
        "task",
        {},
        "How well each model does the task",
        task,
        "Accuracy: the answer has a higher logit than every wrong option. Clean − corrupt: by how much the answer's "
        "lead differs between a prompt and its twin.",
        "Where one model does not do the task, nothing on this page says what was changed for it.",
        "checks",
        "Whiskers",
        "Grey ticks",
        select=first_condition,
    ),
]
