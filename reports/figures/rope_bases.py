"""Figures of rope_bases: what other rotary bases and mixtures of them do to the next token, by context; weights."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, lines
from .drawing import Drawing, Tables, draw_all, first_condition

WHOLE, TOGETHER = "all contexts", "all bases mixed"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The loss by base and by context; weights in the mixture; levels and the right word's probability in folds."""
    return draw_all(FIGURES, tables)


def _beside(rows: pd.DataFrame) -> pd.DataFrame:
    """The control on the line of what it controls."""
    return rows.assign(base=rows["base"].where(rows["control"] == "", TOGETHER))


def by_base(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(_beside(rows), "base", zero=True, x_title=f"more than the trained base ({rows['unit'].iloc[0]})")


def levels(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(_beside(rows), "base", panel="measure")


def by_context(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "tokens", by="base", y_title=f"more than trained ({rows['unit'].iloc[0]})")


def weights(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "base", x_title="weight in the mixture")


def waveform(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "distance", by="base", y_title="score", markers=False)


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    rows = first_condition(rows)
    return rows[rows["context"] == WHOLE]


def _mixtures(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each context the mixtures, and the control."""
    rows = first_condition(rows)
    return rows[(rows["context"] != WHOLE) & rows["base"].str.contains("mixed")]


MIXED = (
    "All bases mixed: the mean of their logits, weighted by how large each one's largest logit is. Their "
    "distributions mixed: the mean of their probabilities."
)
FIGURES = [
    Drawing(
        "changes",
        "changes",
        {"measure": "loss"},
        "What another rotary base does to the next token",
        by_base,
        "Loss of the next token with each base, in units of the trained one, and with mixtures, minus that with the "
        f"trained base, mean over tokens. {MIXED} Control: as many bases within 1 % of the trained one, mixed alike.",
        "Left of 0: better than the trained base. A mixture has to lie left of its control.",
        interval="Whiskers",
        control="Grey tick",
        select=_whole,
        claims=("mixing helps", "mixing costs little"),
    ),
    Drawing(
        "contexts",
        "changes",
        {"measure": "loss"},
        "The mixtures, by how much was read",
        by_context,
        "The same of the mixtures alone, by the tokens that the model has read when it says the next one: from this "
        "many up to twice as many.",
        "Below 0 the mixture reads better than the trained base.",
        interval="Bands",
        control="Dotted",
        select=_mixtures,
    ),
    Drawing(
        "probability",
        "changes",
        {"measure": "probability"},
        "The right next token's probability",
        by_base,
        "Probability of the right next token with each base and mixture, minus that with the trained base, mean over "
        f"tokens. {MIXED}",
        "Right of 0: more likely than with the trained base.",
        interval="Whiskers",
        control="Grey tick",
        select=_whole,
        claims=("the right word gains",),
    ),
    Drawing(
        "weights",
        "weights",
        {},
        "What each base weighs in the mixture",
        weights,
        "Weights of the bases, mean over tokens: the softmax over bases of each one's largest logit.",
        "Right of the grey tick: a base that is surer than the others.",
        interval="Whiskers",
        control="Grey tick",
        select=first_condition,
    ),
    Drawing(
        "levels",
        "levels",
        {},
        "Before and after",
        levels,
        "Loss of the next token and the probability that it gets, with each base alone and with mixtures.",
        "Compare with the line of the trained base.",
        theme="before and after",
        interval="Whiskers",
        control="Grey tick",
        select=_whole,
    ),
    Drawing(
        "waveform",
        "waveform",
        {},
        "What each base makes of distance alone",
        waveform,
        "Score that a query gives a key so many tokens before it, were both all ones. It is arithmetic: the same for "
        "any weights, and so without an interval or a control.",
        "Where one base has a trough another one may have none: the paper's reason to mix them. The other figures say "
        "whether it helps here.",
        theme="waveform",
    ),
]
