"""Figures of edges: who speaks to the output and the movers' queries, the strongest edges, exact against estimated."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, scatter
from .circuits import CHECKS, ESTIMATES, SIGN, TASK, label
from .drawing import Drawing, Tables, draw_all, first_condition
from .signs import turned
from .views import unclear

EXACT = "path patched"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Exact maps, the strongest edges, estimates against exact effects."""
    return draw_all(FIGURES, tables)


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A view per receiver, all on one scale."""
    return head_map(unclear(turned(rows)), signed=True, view="receiver", unit="logits")


def strongest(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(turned(rows.sort_values("rank", kind="stable")), "edge", by="measure", zero=True)


def estimates(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Every head before a receiver: the path's exact effect against five steps."""
    keys = ["receiver", "layer", "head"]
    wide = turned(rows).pivot_table(index=keys, columns="measure", values="value", sort=False).reset_index()
    if not {EXACT, ESTIMATES[1]} <= set(wide):
        return None
    titles = ("exact effect of the path (logits)", "5 steps (logits)")
    named = wide.assign(label=label(wide))
    return scatter(named, EXACT, ESTIMATES[1], "label", titles=titles, panel="receiver", diagonal=True)


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    low = min(0.0, float(rows["value"].min())) - 0.05
    return dots(rows, "measure", by="estimate", panel="receiver").update_xaxes(range=[low, 1.1])


FIGURES = [
    Drawing(
        "into",
        "into",
        {"measure": EXACT},
        "Which heads speak to the output, and to the movers' queries",
        maps,
        "Fall of the answer's lead when the path from one head to the receiver alone carries the twin's output, at the "
        "last position; all other heads and all MLPs stay as they were. The buttons choose the receiver.",
        f"{SIGN} Heads behind a receiver have no cell.",
        select=first_condition,
        grey="Grey: chance alone shows as much among all heads of the map (p > 0.05).",
    ),
    Drawing(
        "strongest",
        "edges",
        {},
        "The strongest edges of the whole graph",
        strongest,
        "Estimated effect of the strongest edges, at all positions; chosen by five steps on held-out prompts of one "
        "half of the groups, measured on the other groups.",
        "Above 0 the edge helps the answer. q, k, v: what a head's queries, keys or values read.",
        interval="Whiskers",
        select=first_condition,
        claims=("again",),
    ),
    Drawing(
        "estimates",
        "into",
        {},
        "Exact against estimated edges",
        estimates,
        "Every head before the receiver: the exact effect of its path against integrated gradients (5 steps).",
        "On the dashed line the estimate is exact.",
        CHECKS,
        select=first_condition,
    ),
    Drawing(
        "agreement",
        "agreement",
        {},
        "Do the estimates agree with the exact paths?",
        agreement,
        "Rank correlation (Spearman) over the heads before the receiver, and which share of the exact top heads is "
        "also in the estimate's top.",
        "1: the same order.",
        CHECKS,
        "Whiskers",
        select=first_condition,
        claims=("ranks", "gradients"),
    ),
    TASK,
]
