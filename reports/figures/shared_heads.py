"""Figures of shared heads: what two tasks choose in common beside depth alone, and how many tasks choose each head."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map
from .drawing import Drawing, Tables, draw_all, first_condition

DEPTH = "as many heads in every layer, at random"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Every pair of tasks, and the map of heads."""
    return draw_all(FIGURES, tables)


def shared(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """What is in common; the band of the null as the control's interval."""
    observed = rows.assign(lower=np.nan, upper=np.nan, control="")
    null = rows.assign(value=rows["expected"], control=DEPTH)
    return dots(pd.concat([observed, null]), "pair", x_title="share in common")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, unit="tasks that choose it")


FIGURES = [
    Drawing(
        "shared",
        "shared",
        {},
        "How many chosen heads two tasks share",
        shared,
        "Share of the heads chosen for one task that are chosen for the other as well. The grey tick is what sets "
        "with as many heads in every layer share by chance on average, its whisker 95 % of that distribution "
        "(exact).",
        "Right of the grey whisker: the tasks choose the same heads, and not the same layers alone. The table's column "
        "ceiling is what two trainings on one task share, where heads are trained.",
        control="Grey ticks",
        select=first_condition,
        claims=("tasks share heads",),
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "Which heads the tasks choose",
        heads,
        "How many of the tasks choose each head; the table names them.",
        "The brightest are chosen for most tasks; the first figure says whether that is more than chance.",
        select=first_condition,
    ),
]
