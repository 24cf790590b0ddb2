"""Figures of dictionaries: what they keep, how specific features are, what they do where they are added."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, lines
from ..charts.style import sized
from .drawing import Drawing, Tables, draw_all, first_condition

HEIGHT, HIGHER = 340, 400  # px: so few rows would be flat on a phone, below a long legend
ADDED = "loss added"
SAID, LOSS = "probability of the label's words", "loss of the text"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Variance and loss, steering, how specific features stay, how often they are active."""
    return draw_all(FIGURES, tables)


def quality(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return sized(dots(first_condition(rows), "measure", x_title="share", zero=True), HEIGHT)


def added(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return sized(dots(first_condition(rows), "measure", x_title="nats a token", zero=True), HIGHER)


def by_label(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return sized(dots(first_condition(rows), "label", x_title="share of variance", zero=True), HIGHER)


def steering(rows: pd.DataFrame, _: Tables) -> go.Figure:
    title = "change of probability" if (rows["measure"] == SAID).all() else "change of loss, nats"
    figure = lines(first_condition(rows), "strength", by="by", y_title=title)
    return figure.update_xaxes(tickvals=sorted(rows["strength"].unique()))


def specific(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return sized(dots(first_condition(rows), "label", x_title="share of tokens", zero=True), HIGHER)


def often(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    return sized(dots(shown, "often", x_title="number of features", zero=True), HEIGHT)


FIGURES = [
    Drawing(
        "quality",
        "quality",
        {"unit": "share"},
        "How much of the states, and of their use, a few features tell",
        quality,
        "Variance explained: 1 minus squared error of the state as it is told, over squared distance from the mean "
        "state. Loss recovered: with the told state in its place, of the loss that the mean state costs.",
        "1: nothing is lost, 0: no better than the mean state. Right of the grey ticks a dictionary is worth more "
        "than as many numbers of another kind.",
        interval="Whiskers",
        control="Grey",
        claims=("more than components", "loss recovered"),
    ),
    Drawing(
        "steering",
        "steering",
        {"measure": SAID},
        "What a label's features do where they are added to other texts",
        steering,
        "Change of the probability of a label's words (label: the language, domain or kind of a text) in texts of "
        "another one, when the label's features are added to every token, 1, 2 or 4 times as active as in its own "
        "texts; difference of mean states: the same length along the difference between the label's mean state and the "
        "others', without a dictionary.",
        "Above the dotted lines the features stand for the label; another direction of that length does not.",
        interval="Bands",
        control="Dotted",
        claims=("features steer",),
    ),
    Drawing(
        "specific",
        "specific",
        {},
        "How specific the features of a label stay on other texts",
        specific,
        "Share of a text's tokens at which its label's features are active minus that of the other labels' features, "
        "mean over features that were chosen on other texts.",
        "Right of the grey ticks they are more specific than features of like activity, and than neurons; these are "
        "active far more often, which a difference of shares favours.",
        interval="Whiskers",
        control="Grey",
        claims=("features of one label", "more specific than neurons"),
    ),
    Drawing(
        "often",
        "often",
        {},
        "How often the features are active",
        often,
        "Number of features by the share of tokens at which they are active: a count, so there is no interval; n "
        "counts tokens.",
        "Features that are never active are dead: the dictionary is smaller than it looks. Those active at nearly "
        "every token say little of any.",
    ),
    Drawing(
        "steering_loss",
        "steering",
        {"measure": LOSS},
        "What the same edit costs the text",
        steering,
        "Change of the loss of the text itself, nats a token, in the same edits.",
        "Where it is large, the words come with a text that the model no longer follows.",
        "what steering costs",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "added",
        "quality",
        {"measure": ADDED},
        "How much loss the told states add",
        added,
        "Loss of a token with the told state in the place of the state, minus that of the model as it is.",
        "0: the model does not notice.",
        "quality in detail",
        interval="Whiskers",
        control="Grey",
    ),
    Drawing(
        "by_label",
        "by_label",
        {},
        "For whom the dictionary is good",
        by_label,
        "Variance explained in the texts of each label.",
        "A dictionary tells best what it has seen most of.",
        "quality in detail",
        interval="Whiskers",
        control="Grey",
    ),
]
