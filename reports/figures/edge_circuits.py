"""Figures of circuits of edges: faithfulness over their size, areas, where the circuit lies, what it holds."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .circuits import TASK
from .drawing import Drawing, Tables, draw_all, first_condition


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The curves first, then areas, heads and sizes."""
    return draw_all(FIGURES, tables)


def curve(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return _over_shares(lines(rows, "share", by="method", panel="ranking", y_title=str(rows["unit"].iloc[0])))


def area(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "method", panel="measure")


def given(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "method")


def nodes(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, view="method", unit=str(rows["unit"].iloc[0]))


def sizes(rows: pd.DataFrame, _: Tables) -> go.Figure:
    named = rows.assign(panel=rows["measure"])
    return _over_shares(lines(named, "share", by="method", panel="panel", y_title="number in the circuit"))


def _over_shares(figure: go.Figure) -> go.Figure:
    ticks = {"tickvals": [0.001, 0.01, 0.1, 1], "tickformat": "~%"}
    return figure.update_xaxes(type="log", title_text="share kept (logarithmic)", **ticks)


def _largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of edges of largest |effect|, the first condition."""
    shown = first_condition(rows)
    return shown[shown["ranking"].str.startswith("largest")]


SEEN = (
    "A circuit keeps so many of the edges between embeddings, heads, MLPs and output; at every other edge the reader "
    "hears what its writer says elsewhere (in the twin's run, unless the methods say otherwise). At level neuron it "
    "keeps so many coordinates of what these write. Lines: what ranked them, on other prompts."
)
FIGURES = [
    Drawing(
        "faithfulness",
        "curve",
        {},
        "How much of the task so many edges do alone",
        curve,
        SEEN,
        "1: as much as the whole model, 0: as much as without any edge; above 1 where edges that hinder are left out.",
        interval="Bands",
        control="Dotted",
        select=first_condition,
        claims=("few edges",),
    ),
    Drawing(
        "area",
        "area",
        {},
        "Areas under the curves",
        area,
        "CPR: area under the curve of the edges that help most first, more is better. CMD: area between 1 and the "
        "curve of the edges of largest |effect|, less is better. As the MIB circuit track computes them; where heads "
        "share keys and values, an edge into these counts once here and once for each head there.",
        "A method without a grey tick has the control of “5 steps” alone.",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
        claims=("five gradients", "helpful edges"),
    ),
    Drawing(
        "nodes",
        "nodes",
        {},
        "In how small a circuit each head is",
        nodes,
        "The smallest share of all edges, or neurons (largest |effect| first), whose circuit has the head, by what "
        "ranked them.",
        "Dark: already in small circuits; bright: in large ones alone.",
        select=first_condition,
    ),
    Drawing(
        "sizes",
        "kept",
        {},
        "What circuits hold",
        sizes,
        "Edges, heads and MLPs that are left of so many edges (largest |effect| first) when those that lead nowhere "
        "are pruned; at level neuron the neurons, and who has any of them.",
        "",
        "sizes",
        select=_largest,
    ),
    Drawing(
        "auroc",
        "auroc",
        {},
        "Are the given circuit's edges ranked first?",
        given,
        "Area under the ROC curve: how often an edge of the circuit that was given (--edge_circuits.circuit) has a "
        "larger |effect| than one that is not in it, by what ranked them, on other prompts than the curves.",
        "1: all of them come first; ½: no better than chance. Random edges lie above ½ where the circuit's depth alone "
        "gives it away.",
        "given circuit",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
    TASK,
]
