"""Figures of waves over the numbers: what filters cost, slow waves by layer, every period, logits around the answer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, heat_map, lines
from ..charts.style import sized
from .drawing import Drawing, Tables, draw_all, first_condition

HEIGHT = 480  # px, of two panels


def figures(tables: Tables) -> dict[str, go.Figure]:
    """What filters cost, the slow share, all periods; logits around the answer and the rest in folds."""
    return draw_all(FIGURES, tables)


def filters(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Slow and fast first, then every period."""
    return dots(first_condition(rows), "part", by="module", zero=True, x_title=_unit(rows))


def _unit(rows: pd.DataFrame) -> str:
    return f"change ({rows['unit'].iloc[0]})"


def by_layer(y_title: str):
    """A line for each module."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure:
        return lines(first_condition(rows), "layer", by="module", y_title=y_title, markers=False)

    return draw


def spectrum(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A row for each period, a panel for each module; of many numbers a row for each component."""
    shown = first_condition(rows).sort_values(["module", "component"], ascending=[True, False], kind="stable")
    return heat_map(shown, "layer", "period", panel="module", unit="share")


def offsets(rows: pd.DataFrame, _: Tables) -> go.Figure:
    named = first_condition(rows).rename(columns={"offset": "number − answer"})
    figure = heat_map(named, "layer", "number − answer", panel="module", signed=True, unit="logits")
    return sized(figure, HEIGHT)


REMOVED = (
    "with a part of the waves over the numbers taken out of what all attentions, all MLPs or both write at the last "
    "position, minus without. Slow: the longest periods together; fast: the others; below, one period at a time."
)
FIGURES = [
    Drawing(
        "filters",
        "filters",
        {"measure": "lead of the right number"},
        "What the sum loses without slow or fast waves",
        filters,
        f"The right number's logit over the mean of the other numbers, {REMOVED}",
        "Left of 0, and left of the grey ticks: these waves carry the sum, and any waves over the numbers do not.",
        interval="Whiskers",
        control="Grey",
        claims=("MLPs need slow waves", "attention needs fast waves"),
    ),
    Drawing(
        "slow",
        "slow",
        {},
        "How slow the waves are that each module writes, layer by layer",
        by_layer("share of the slow periods"),
        "Share of the slow periods in what a module's output, by the unembedding alone, makes the numbers' logits "
        "differ by, at the last position.",
        "Above the dotted lines: slower than the same logits in any order. A smooth bump is slow too.",
        interval="Bands",
        control="Dotted in the same colour",
        claims=("MLPs slow, attention fast",),
    ),
    Drawing(
        "spectrum",
        "spectrum",
        {"control": ""},
        "The share of every period",
        spectrum,
        "The same share for every period, layer by layer; a column sums to 1.",
        "With ten digits in any order every period has 22 %, and period 2, which has one wave and not two, 11 %; "
        "controls are in the table.",
    ),
    Drawing(
        "offsets",
        "offsets",
        {},
        "What modules write around the answer",
        offsets,
        "Logit of a number, by the unembedding alone, over the mean of all numbers, against its distance from the "
        "right one; mean over sums.",
        "A red row at 0: the module writes the answer. Red rows at equal distances: a wave.",
        "around the answer",
    ),
    Drawing(
        "accuracy",
        "filters",
        {"measure": "accuracy among the numbers"},
        "Accuracy without slow or fast waves",
        filters,
        f"Share of sums whose right number has the largest logit of all numbers, {REMOVED}",
        "Left of 0, and left of the grey ticks: these waves are needed.",
        "filters: the rest",
        interval="Whiskers",
        control="Grey",
    ),
    Drawing(
        "off",
        "filters",
        {"measure": "distance from the right number"},
        "How far off the sum is without slow or fast waves",
        filters,
        f"Distance of the number with the largest logit from the right one, {REMOVED}",
        "In the paper slow waves keep the size of the sum and fast ones its last digit.",
        "filters: the rest",
        interval="Whiskers",
        control="Grey",
    ),
    Drawing(
        "size",
        "size",
        {},
        "How much modules say about numbers",
        by_layer("standard deviation (logits)"),
        "Standard deviation over the numbers of what a module writes into their logits, without the final norm.",
        "Above the dotted line of its colour: it tells numbers apart, more than it tells other words apart.",
        "sizes",
        interval="Bands",
        control="Dotted in the same colour",
    ),
]
