"""Figures of highlighting: what a highlighted span does to the task, in which heads, and to neutral text."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition

SHORT = {"random heads of the same layers": "random heads", "another span of equal length": "another span"}
ORDER = ("nothing highlighted", "chosen heads", "every head")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The gain beside its controls, by strength, heads one by one, neutral text; every number in a fold."""
    return draw_all(FIGURES, tables)


def gain(rows: pd.DataFrame, _: Tables) -> go.Figure:
    named = rows.assign(what=rows["steered"] + " − " + rows["than"].replace(SHORT))
    return dots(named, "what", panel="measure", zero=True)


def effects(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Each strength a line: the model as it is first, then the chosen heads and every head from weak to strong."""
    place = {name: i for i, name in enumerate(ORDER)}
    order = rows.assign(place=rows["steered"].map(place)).sort_values(
        ["place", "alpha"], ascending=[True, False], kind="stable"
    )
    strength = order["alpha"].map(lambda alpha: "" if alpha == 1 else f", α = {alpha:g}")
    return dots(order.assign(what=order["steered"] + strength), "what", panel="measure")


def strengths(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The chosen heads and their controls over α, each from the model as it is."""
    shown = rows[rows["steered"] == "chosen heads"]
    plain = rows[rows["steered"] == "nothing highlighted"]
    begun = [plain.assign(control=name) for name in shown["control"].unique()]
    figure = lines(pd.concat([*begun, shown], ignore_index=True), "alpha", y_title="lead of the answer (logits)")
    there = sorted({1.0, *shown["alpha"]})
    ticks = {"tickvals": there, "ticktext": [f"{alpha:g}" for alpha in there]}
    title = "α: what all other tokens weigh (1: as they are)"
    return figure.update_xaxes(type="log", autorange="reversed", title_text=title, **ticks)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, signed=True, unit="logits added to the lead")


def neutral(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "steered", zero=True, x_title="loss, more than as it is (nats a token)")


FIGURES = [
    Drawing(
        "gain",
        "gain",
        {},
        "What highlighting the right words gains",
        gain,
        "Differences example by example at the strongest setting (the smallest α): the chosen heads minus the model as "
        "it is, minus random heads of the same layers, minus another span of equal length; every head minus the model "
        "as it is, and minus the chosen heads. Lead: the answer's logit minus the mean of the wrong options'.",
        "A dot right of 0 whose whisker leaves 0 out gains more than what it is compared with. The table's column "
        "beats is the share of draws below the chosen heads.",
        interval="Whiskers",
        select=first_condition,
        claims=("chosen heads help", "every head hurts"),
    ),
    Drawing(
        "strengths",
        "effects",
        {"measure": "the answer's lead"},
        "What weaker and stronger highlighting gains",
        strengths,
        "The answer's lead over the mean of the wrong options with the span highlighted in the chosen heads, by α: 1 "
        "is the model as it is, where all lines begin. Dotted: random heads of the same layers, and another span of "
        "equal length in the chosen heads, at the same α (means of their draws).",
        "To the right it is highlighted more. The solid line above both dotted ones: these heads and these words "
        "matter, at that strength.",
        interval="Bands",
        control="Dotted lines",
        select=first_condition,
    ),
    Drawing(
        "effects",
        "effects",
        {},
        "The task with the right words highlighted, by strength",
        effects,
        "Accuracy among the options, and the answer's lead over the mean of the wrong ones. α: what all other "
        "tokens of the prompt weigh, 1 as they are.",
        "Compare with the line nothing highlighted; in the chosen heads the dot has to clear the grey ticks.",
        theme="every edit",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "What each head alone adds when it looks at the right words",
        heads,
        "Change of the answer's lead when one head alone reads the other tokens of the prompt α times as much, α the "
        "smallest; on the held-out examples that the heads are chosen on, so that the largest ones are flattered.",
        "Red: it helps. The column chosen of the table says which ones are steered together; what they add on other "
        "examples is in the first figure.",
    ),
    Drawing(
        "neutral",
        "neutral",
        {},
        "What the same edit does to text of which nothing is asked",
        neutral,
        "Loss of passages of novels minus that of the model as it is, with a random stretch of their first half "
        "highlighted, at the smallest α.",
        "Near 0: the edit leaves the model's reading alone.",
        interval="Whiskers",
        control="Grey ticks",
        claims=("neutral text stays",),
    ),
]
