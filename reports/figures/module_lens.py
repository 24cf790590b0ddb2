"""Figures of the lens on modules: entropy at image and text tokens, layer by layer, of outputs and of states."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all, first_condition

STATES = ("behind attention", "behind the block")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """States, modules' outputs, and image tokens by kind of question."""
    return draw_all(FIGURES, tables)


def curves(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A line for each kind of token, a panel for each module."""
    shown = first_condition(rows)
    return lines(shown, "layer", by="tokens", panel="module", y_title="entropy (nats)", markers=False)


def by_label(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """A line for each label, a panel for each kind of token; with more labels than colours no figure."""
    shown = first_condition(rows)
    shown = shown.assign(label=shown["label"].str.replace("_", " "))
    if shown["label"].nunique() > 8:
        return None
    return lines(shown, "layer", by="label", panel="tokens", y_title="entropy (nats)", markers=False)


def states(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["module"].isin(STATES)]


def outputs(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["module"].isin(STATES)]


FIGURES = [
    Drawing(
        "block",
        "entropy",
        {},
        "How sure the lens is of a word behind attention and behind the block",
        curves,
        "Entropy of the words that the state decodes to, at image and at text tokens.",
        "Lower: surer of some word. A line below the dotted one of its colour: the module that wrote last made it "
        "surer than noise of the same size does.",
        interval="Bands",
        control="Dotted in the same colour",
        select=states,
        claims=("image tokens less sure", "MLPs make sure"),
    ),
    Drawing(
        "outputs",
        "entropy",
        {},
        "How sure the lens is of what attention and MLP write",
        curves,
        "The same of the module's output alone.",
        "A line at the dotted one: what is written is no more of one word than a random direction.",
        interval="Bands",
        control="Dotted in the same colour",
        select=outputs,
    ),
    Drawing(
        "labels",
        "by_label",
        {"module": "behind the block", "control": ""},
        "The same by kind of question",
        by_label,
        "Entropy behind the block, a line for each kind of question or text.",
        "Lines that lie together: the kind does not matter. Controls are in the table.",
        interval="Bands",
    ),
]
