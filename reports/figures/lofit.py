"""Figures of LoFiT: what learned shifts of a few heads do to the task, which heads, how far seeds agree, other text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition

SHORT = {
    "random heads of the same layers": "random heads",
    "a random direction of the same norm": "random direction",
    "heads of a second seed": "second seed's heads",
}
DEPTH = "as many heads in every layer, at random"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """What is gained beside the controls, by strength, heads in common; the others in folds."""
    return draw_all(FIGURES, tables)


def gain(rows: pd.DataFrame, _: Tables) -> go.Figure:
    named = rows.assign(what=rows["edit"].replace(SHORT) + " − " + rows["than"].replace(SHORT))
    return dots(named, "what", panel="measure", zero=True)


def strengths(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "strength", y_title="log p, more than as it is (nats)")


def effects(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "edit", panel="measure")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Both seeds, a panel each."""
    return head_map(rows.assign(panel=[f"seed {int(one)}" for one in rows["seed"]]), panel="panel", unit="‖A‖")


def moved(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, unit="‖A ⊙ z‖")


def overlap(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """What is in common, and the band of the null as the control's interval."""
    observed = rows.assign(lower=np.nan, upper=np.nan, control="")
    null = rows.assign(value=rows["expected"], control=DEPTH)
    return dots(pd.concat([observed, null]), "pair")


def neutral(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "edit", zero=True, x_title="loss, more than as it is (nats a token)")


FIGURES = [
    Drawing(
        "gain",
        "gain",
        {},
        "What shifting a few heads gains",
        gain,
        "Differences example by example, on groups that nothing was learned from. Chosen heads: an offset v is learned "
        "for each of the few heads whose learned scale is largest; minus the model as it is, minus offsets learned as "
        "long for random heads of the same layers, minus a random direction in the chosen heads with the norm of each "
        "one's v, or minus offsets for the heads that a second seed of training chooses, and minus "
        "a difference of means in the same heads (prompts minus their twins, as long as v). Every head scaled: the "
        "first stage's scales of all heads, minus the model as it is. Lead: the answer's logit minus the mean of the "
        "wrong options'.",
        "A dot right of 0 whose whisker leaves 0 out gains more than what it is compared with. Log p may rise because "
        "the model learns what answers look like; the lead over the wrong options tells whether it also knows which.",
        interval="Whiskers",
        select=first_condition,
        claims=("chosen heads beat random",),
    ),
    Drawing(
        "strengths",
        "strengths",
        {"measure": "log p of the answer"},
        "What smaller and larger shifts gain",
        strengths,
        "Log p of the answer's first token minus that of the model as it is, with the offsets v of the chosen heads "
        "multiplied by the strength: 1 as they are learned, 0 none. Dotted: offsets learned for random heads of the "
        "same layers, and random directions of the same norms in the chosen heads (means of their draws).",
        "The solid line above both dotted ones: other heads, or a push of that size to anywhere, do less.",
        interval="Bands",
        control="Dotted lines",
        select=first_condition,
    ),
    Drawing(
        "heads",
        "heads",
        {"measure": "‖A‖"},
        "How far training scales each head",
        heads,
        "‖A‖, the norm of the scale that is learned for a head's output z, which becomes (1 + A) ⊙ z: one number "
        "for each head and seed of training, without an interval. The few largest are the chosen heads (columns "
        "chosen and chosen_by_second of the table).",
        "Bright in both panels: training finds that head with both seeds. Steps are alike for all heads: "
        "small differences say little.",
        theme="which heads",
        select=first_condition,
    ),
    Drawing(
        "overlap",
        "overlap",
        {},
        "How many chosen heads are the same",
        overlap,
        "Share of the chosen heads that two choices have in common: two seeds of training, and the largest by ‖A‖ "
        "and by ‖A ⊙ z‖ of one. The grey tick is what sets with as many heads in every layer share by chance on "
        "average, its whisker 95 % of that distribution (exact).",
        "Right of the grey whisker: the same heads are found again, and not the same layers alone.",
        control="Grey ticks",
        select=first_condition,
        claims=("seeds choose alike",),
    ),
    Drawing(
        "neutral",
        "neutral",
        {},
        "What the same edits cost other text",
        neutral,
        "Loss of passages of novels with each edit at every position, minus that of the model as it is.",
        "Near 0: what was learned for the task leaves other text alone.",
        theme="neutral text",
        interval="Whiskers",
        control="Grey ticks",
        claims=("neutral text stays",),
    ),
    Drawing(
        "effects",
        "effects",
        {},
        "The task under every edit",
        effects,
        "Log p of the answer's first token, its lead over the mean of the wrong options, and how often it is the "
        "likeliest of all words.",
        "Compare with the line as it is; on the line of the chosen heads the dot has to clear the grey ticks.",
        theme="every edit",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
    Drawing(
        "moved",
        "heads",
        {"measure": "‖A ⊙ z‖"},
        "How far the scale moves each head's output",
        moved,
        "‖A ⊙ z‖, the norm of what the first seed's scale adds to a head's output, mean over the prompt's positions "
        "and the examples.",
        "‖A‖ does not see how large z is: heads that are bright here and dark there are scaled little and moved far.",
        theme="which heads",
        select=first_condition,
    ),
]
