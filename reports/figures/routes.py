"""Figures of routes: where predictions come from, what is kept by layer, one prompt's graph, heads beside patching."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, head_map, heat_map, lines, scatter, token_graph
from .drawing import Drawing, Tables, draw_all, first_condition

GRAPHS = 3  # prompts
FROM_FIRST = ("from the first token", "attention paid to the first token")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Tokens by state, what is kept by layer, heads beside patching, the graphs; maps of heads and edges in folds."""
    graphs = _graphs(tables.get("edges", pd.DataFrame()))
    return draw_all(FIGURES[:1], tables) | dict([*graphs.items()][:1]) | draw_all(FIGURES[1:], tables) | graphs


def tokens(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    ends = shown[(shown["state"] == 0) & (shown["control"] == "")].set_index("role")["value"]
    order = shown.assign(end=shown["role"].map(ends)).sort_values("end", ascending=False, kind="stable")
    return lines(order, "state", panel="role", y_title="share of the output", markers=False)


def kept(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel a measure: shares that differ by much would hide each other."""
    return lines(first_condition(rows), "layer", panel="measure", y_title="share of the state")


def edges(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", y_title="share of pairs of tokens")


def first(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", by="measure", y_title="share of other tokens")


def above(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", y_title="share of importance")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Measures and the control's by buttons."""
    shown = first_condition(rows)
    return head_map(shown.assign(view=shown["measure"] + shown["control"].map(_of_control)), view="view", unit="share")


def _of_control(control: str) -> str:
    return ", control" if control else ""


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    names = shown["layer"].astype(int).astype(str) + "." + shown["head"].astype(int).astype(str)
    titles = ("mean importance on routes", "size of the estimated patching effect (logits)")
    return scatter(shown.assign(name=names), "importance", "value", "name", titles=titles)


def knocked(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """What is kept and what cutting costs have scales of their own: a button each."""
    shown = first_condition(rows)
    return heat_map(
        shown.assign(view=shown["measure"] + shown["control"].map(_of_control)),
        "layer",
        "role",
        view="view",
        signed=("knockout",),
        unit="share",
    )


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["measure"].isin(("attention", "MLP"))]


def present(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["measure"] != "importance"]


def of_first(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["measure"].isin(FROM_FIRST)]


def _graphs(table: pd.DataFrame) -> dict[str, go.Figure]:
    drawn, table = {}, first_condition(table) if "condition" in table else table
    for index, example in enumerate(table["example"].unique()[:GRAPHS] if not table.empty else []):
        rows = table[table["example"] == example]
        parts = {"seen": GRAPH.format(count=len(rows)), "read": READ, "sample": "n\u00a0=\u00a01: an illustration."}
        said = {"theme": "main" if index == 0 else "more prompts", **parts}
        title = f"How one prediction comes about: prompt {index + 1}"
        caption = " ".join(parts.values())
        name = f"graph-{index}" if index else "graph"
        drawn[name] = captioned(token_graph(rows), title, caption, "edges", {"example": example}, **said)
    return drawn


GRAPH = (
    "The {count} strongest edges of the route of one prompt, followed down from its last token's state at the top: "
    "grey, what stays in the residual; blue, what attention read, from the dot upwards (a dot alone: the token "
    "itself); "
    "squares, MLPs. Wider and larger: more of the output was followed through it. Only tokens with an edge stand here."
)
READ = "Follow the widest lines down from the top: where they cross, heads moved something between tokens."
CONTROL = "Dotted"
FIGURES = [
    Drawing(
        "tokens",
        "tokens",
        {},
        "From which tokens predictions come, state by state",
        tokens,
        "How much of the output was followed down to each kind of token in each state: products of kept shares along "
        "all ways, summed; all kinds together are 1, less what ends in biases.",
        "Read from right to left: where a line rises above both controls, predictions come through these tokens more "
        "than by their number and by chance.",
        interval="Bands",
        control=CONTROL,
    ),
    Drawing(
        "kept",
        "layers",
        {},
        "What states on routes are made of, layer by layer",
        kept,
        "Share of heads in the state behind the attention, and of the MLP in the state behind it, in the rows that "
        "routes keep and after parts at or below the threshold are dropped. The rest is the residual (and biases).",
        "A peak above its control: the layer writes what the route is made of.",
        theme="by layer",
        interval="Bands",
        control=CONTROL,
        select=measured,
    ),
    Drawing(
        "agreement",
        "agreement",
        {},
        "Do routes find the heads of large estimated patching effect?",
        agreement,
        "Each point a head: its mean importance in the rows that routes keep, and the estimated size of its patching "
        "effect on the answer against the wrong one, estimated from gradients.",
        "To the right and up: both find it. High on the left: it matters, and routes miss it.",
        theme="patching",
        claims=("routes find causal heads",),
    ),
    Drawing(
        "knockout",
        "knockout",
        {},
        "What the last token reads, and what cutting it costs",
        knocked,
        "By layer and kind of token, by button: the share of the last token's state that its route keeps of them, the "
        "same on the control's routes, and the change of the answer's probability, as a share of it, where it cannot "
        "read them in this layer.",
        "Cells that are bright in importance and blue in knockout: kept, and needed.",
        theme="knockout",
        claims=("routes agree with knockout",),
    ),
    Drawing(
        "edges",
        "layers",
        {"measure": "edges"},
        "How many edges routes keep",
        edges,
        "Pairs of different tokens that a route keeps, of all that the layer's attention could connect.",
        "Low: a prediction comes through few edges.",
        theme="how sparse",
        interval="Bands",
        control=CONTROL,
        claims=("few edges",),
    ),
    Drawing(
        "held",
        "layers",
        {"measure": "importance above the threshold"},
        "How much importance lies above the threshold",
        above,
        "Share of all importance behind the attention that the kept parts have, before they are divided by their sum.",
        "Near 1: what is dropped is little. Low: much is spread over parts that are dropped one by one.",
        theme="how sparse",
        interval="Bands",
        control=CONTROL,
    ),
    Drawing(
        "first",
        "layers",
        {},
        "The first token: attention and importance",
        first,
        "Of what routes keep from other tokens, the share of the first one; and its share of the attention that the "
        "same rows pay to other tokens, all heads together.",
        "Attention far above importance: the first token is looked at and little is read.",
        theme="first token",
        interval="Bands",
        control=CONTROL,
        select=of_first,
        claims=("routes leave the sink",),
    ),
    Drawing(
        "heads",
        "heads",
        {"measure": "importance"},
        "Which heads routes lead through",
        heads,
        "A head's mean importance in the rows that routes keep; by button the same on the control's routes.",
        "Heads that are bright here and dark on the control's routes count by what they write, not only by where they "
        "look.",
        theme="heads",
    ),
    Drawing(
        "presence",
        "heads",
        {},
        "How often heads are on routes, and whether they look one token back",
        heads,
        "By button: the share of prompts whose route a head is on, the same on the control's routes, and its attention "
        "to the token before in the rows that routes keep.",
        "Bright on the route and bright in attention to the token before: a previous-token head on routes.",
        theme="heads",
        select=present,
        claims=("previous-token heads",),
    ),
]
