"""Figures of steering: what an oracle repairs, beside its two controls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots
from .drawing import Drawing, Tables, draw_all, first_condition


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Accuracy and logit difference, then the gains example by example."""
    return draw_all(FIGURES, tables)


def repair(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Each set of heads a line; what is not steered comes first."""
    place = {name: i for i, name in enumerate(dict.fromkeys(["guessing", "nothing steered", *rows["set"]]))}
    return dots(rows.sort_values("set", key=lambda c: c.map(place), kind="stable"), "set", panel="measure")


def gain(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(than="more than with " + rows["than"]), "set", by="than", panel="measure", zero=True)


def silent(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "silent", panel="measure")


def looks(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "set", panel="mark")


FIGURES = [
    Drawing(
        "repair",
        "repair",
        {},
        "What steering some heads repairs (an oracle)",
        repair,
        "Accuracy among the options, and logit difference (answer minus mean of the wrong options), when the chosen "
        "heads attend at the last position to the wrong options alone: it is told which they are.",
        "A dot to the right of its grey ticks repairs more than the controls, which are means over draws.",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
    Drawing(
        "gain",
        "gain",
        {},
        "Gain over nothing and over the controls",
        gain,
        "Differences example by example; against a control, to the mean of its draws.",
        "Above 0 the steered heads do more. The table's column beats is the share of draws below the steered value.",
        interval="Whiskers",
        select=first_condition,
        claims=("both", "found on this task"),
    ),
    Drawing(
        "silent",
        "silent",
        {},
        "The task without its content gatherers",
        silent,
        "Accuracy among the options, and logit difference (answer minus mean of the wrong options), as they are and "
        "with the heads silent (they say 0 everywhere) that help most on the path to the queries of the movers, the "
        "heads that write the answer.",
        "A dot to the left of its grey tick: the task loses more by these heads than by random ones of their layers.",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
        claims=("content gatherers",),
    ),
    Drawing(
        "looks",
        "looks",
        {},
        "Where the movers look before and after the repair (an oracle)",
        looks,
        "Attention of the last position in this task's movers (those that are not steered themselves) on the token of "
        "the answer and on those of the wrong options, as they are and when the heads that IOI uses are pointed at the "
        "wrong options.",
        "Under the answer, a dot to the right of its grey tick: steering turns the movers to the answer, more than "
        "steering random heads of the same layers does.",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
        claims=("movers look",),
    ),
]
