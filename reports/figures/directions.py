"""Figures of directions: what adding one does by layer and strength, what projecting it out costs, and neutral text."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all, first_condition

ANSWER, RIGHT = "the answer over the other options", "the right answer over the other"
ACCURACY = "accuracy among the options"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The answer by layer and strength, the right answer without the direction, neutral text; accuracy in a fold."""
    return draw_all(FIGURES, tables)


def by_strength(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each strength, from the most negative on; the measured direction and its controls."""
    shown = first_condition(rows).sort_values("strength", kind="stable")
    named = shown.assign(
        line=_line(rows), strength=[f"strength {one:+g}".replace("-", "−") for one in shown["strength"]]
    )
    return lines(named, "layer", by="line", panel="strength", y_title=_unit(rows), markers=False)


def by_layer(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line=_line(rows))
    return lines(shown, "layer", by="line", y_title=_unit(rows), markers=False)


def _line(rows: pd.DataFrame) -> str:
    return f"direction of “{rows['answer'].iloc[0]}”" if "answer" in rows else "the direction"


def _unit(rows: pd.DataFrame) -> str:
    return f"change, {rows['unit'].iloc[0]}"


ALL = "Every direction is added with the same norm; controls are means of their draws."
FIGURES = [
    Drawing(
        "added",
        "sweep",
        {"edit": "added", "measure": ANSWER},
        "What the answer gains when its direction is added",
        by_strength,
        "Logit of the direction's answer minus the mean of the other options, with the direction added at the last "
        "position behind one layer, minus the same without. Panels: strength, in standard deviations of the states "
        "along the direction; negative: the other way round. " + ALL,
        "Above 0 where the strength is positive, and below where it is negative: the direction steers.",
        interval="Bands",
        control="Dotted",
        claims=("adding the direction",),
    ),
    Drawing(
        "out",
        "sweep",
        {"edit": "projected out", "measure": RIGHT},
        "What the right answer loses without the direction",
        by_layer,
        "Logit of the right answer minus that of the direction's answer (where this one is right, minus the mean of "
        "the other options), with the state's part along the direction taken away at the last position behind one "
        "layer, minus the same without.",
        "Below 0, and below the dotted lines: the model needs this direction there to tell the options apart.",
        interval="Bands",
        control="Dotted",
        claims=("projecting it out",),
    ),
    Drawing(
        "neutral",
        "quality",
        {"edit": "added"},
        "What the same edits cost other text",
        by_strength,
        "Loss of the next token in passages of novels, with the direction added at every position behind one layer, "
        "minus the loss without.",
        "Above 0: the edit harms text that has nothing to do with the answer.",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "accuracy",
        "sweep",
        {"edit": "added", "measure": ACCURACY},
        "Accuracy when the direction is added",
        by_strength,
        "Share of examples whose right answer has the largest logit of the options, minus the share without the edit.",
        "Below 0: the answer is said where it is wrong, or no longer where it is right.",
        theme="accuracy",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "accuracy_out",
        "sweep",
        {"edit": "projected out", "measure": ACCURACY},
        "Accuracy without the direction",
        by_layer,
        "The same share with the direction projected out behind one layer.",
        "Below 0, and below the dotted lines: the direction tells the answers apart.",
        theme="accuracy",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "neutral_out",
        "quality",
        {"edit": "projected out"},
        "What projecting it out costs other text",
        by_layer,
        "Loss of the next token in passages of novels, with the direction projected out at every position behind one "
        "layer, minus the loss without.",
        "About 0: other text does not need it.",
        theme="other text",
        interval="Bands",
        control="Dotted",
    ),
]
