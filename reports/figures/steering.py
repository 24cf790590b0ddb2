"""Figures of steering: what an oracle repairs, beside its two controls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars
from .circuits import first_condition
from .drawing import Drawing, Tables, draw_all


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Accuracy and logit difference, then the gains example by example."""
    return draw_all(FIGURES, tables)


def repair(rows: pd.DataFrame, _: Tables) -> go.Figure:
    bar = ("control: " + rows["control"]).where(rows["control"] != "", "steered (oracle)")
    single = rows["set"].isin(["nothing steered", "guessing"])
    rows = rows.assign(bar=bar.where(~single, "as it is"))
    order = {name: i for i, name in enumerate(["as it is", "steered (oracle)"])}
    rows = rows.sort_values("bar", key=lambda c: c.map(order).fillna(9), kind="stable")
    place = {name: i for i, name in enumerate(dict.fromkeys(["guessing", "nothing steered", *rows["set"]]))}
    return bars(rows.sort_values("set", key=lambda c: c.map(place), kind="stable"), "set", by="bar", panel="measure")


def gain(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return bars(rows.assign(than="more than with " + rows["than"]), "set", by="than", panel="measure")


FIGURES = [
    Drawing(
        "repair",
        "repair",
        {},
        "What steering repairs (an oracle)",
        "Accuracy among the options and logit difference (answer minus mean of the wrong options) when the chosen "
        "heads attend at the last position to the wrong options alone: it is told which they are. Controls: the same "
        "with random heads of the same layers, and the same heads on as many random other tokens, mean over draws.",
        repair,
        "Whiskers",
        "Hatched",
        select=first_condition,
    ),
    Drawing(
        "gain",
        "gain",
        {},
        "Gain over nothing and over the controls",
        "Differences example by example; against a control, to the mean of its draws. The table's column beats is the "
        "share of draws below the steered value.",
        gain,
        "Whiskers",
        select=first_condition,
    ),
]
