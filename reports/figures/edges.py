"""Figures of edges: who speaks to the output and the movers' queries, the strongest edges, exact against estimated."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, head_map, scatter
from .circuits import ESTIMATES, TASK, first_condition, label
from .drawing import Drawing, Tables, draw_all

EXACT = "path patched"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Exact maps, the strongest edges, estimates against exact effects."""
    return draw_all(FIGURES, tables)


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, signed=True, panel="receiver", unit="logits")


def strongest(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return bars(rows.sort_values("rank", kind="stable"), "edge", by="measure")


def estimates(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Every head before a receiver: the path's exact effect against five steps."""
    wide = rows.pivot_table(index=["receiver", "layer", "head"], columns="measure", values="value", sort=False)
    wide = wide.reset_index()
    titles = ("exact effect of the path (logits)", "5 steps (logits)")
    return scatter(
        wide.assign(label=label(wide)), EXACT, ESTIMATES[1], "label", titles=titles, panel="receiver", diagonal=True
    )


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return bars(rows, "measure", by="estimate", panel="receiver")


FIGURES = [
    Drawing(
        "into",
        "into",
        {"measure": EXACT},
        "Who speaks to the output and to the movers' queries",
        "Patched minus clean logit difference when the path from one head to the receiver alone carries the twin's "
        "output, at the last position; all other heads and all MLPs stay as in the clean run. Blue heads carry the "
        "answer along this edge. Heads behind a receiver are not drawn.",
        maps,
        select=first_condition,
    ),
    Drawing(
        "strongest",
        "edges",
        {},
        "The strongest edges of the whole graph",
        "Estimated effect of the strongest edges, at all positions; chosen by five steps on held-out prompts of one "
        "half of the groups, measured on the other groups. q, k, v: what a head's queries, keys or values read.",
        strongest,
        "Whiskers",
        select=first_condition,
    ),
    Drawing(
        "estimates",
        "into",
        {},
        "Exact against estimated edges",
        "One point per head before the receiver: the exact effect of its path against integrated gradients (5 steps). "
        "Dashed: equal.",
        estimates,
        select=first_condition,
    ),
    Drawing(
        "agreement",
        "agreement",
        {},
        "Agreement of the estimates with the exact paths",
        "Spearman correlation over the heads before the receiver, and which share of the exact top heads is also in "
        "the estimate's.",
        agreement,
        "Whiskers",
        select=first_condition,
    ),
    TASK,
]
