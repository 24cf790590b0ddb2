"""Figures of the repairs: before, after, control; differences; strengths; cost."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, head_map, lines
from .drawing import Drawing, Tables, draw_all

PLAIN = "plain model"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Differences first: they are the evidence."""
    return draw_all(FIGURES, tables)


def differences(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """One bar a comparison, repair by repair: what it changes, what the controls change, what is between them."""
    control = rows["control"] != ""
    against_plain = ("control (" + rows["control"] + ") − plain").where(control, "repaired − plain")
    side = against_plain.where(rows["against"] == "plain", "repaired − control (" + rows["against"] + ")")
    figure = bars(rows.assign(comparison=rows["repair"] + ": " + side), "comparison", panel="measure")
    for axis in figure.select_xaxes():
        axis.update(zeroline=True, zerolinecolor="#1b1b1b", zerolinewidth=1)
    return figure


def measures(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The plain model, then every repair above its controls."""
    name = rows["repair"] + (", control: " + rows["control"]).where(rows["control"] != "", "")
    return bars(rows.assign(model=name.replace({"none": PLAIN})), "model", panel="measure")


def strengths(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """One panel per repair; the plain model as the strength that changes nothing."""
    plain = rows[rows["repair"] == "none"]
    neutral = {"VHR": 1.0, "VAR": 0.0, "ACT": 1.0}
    parts = [rows[rows["repair"].isin(neutral)]]
    parts += [plain.assign(repair=name, setting=at) for name, at in neutral.items() if (rows["repair"] == name).any()]
    whole = pd.concat(parts, ignore_index=True).drop(columns="control")
    names = {"VHR": "VHR: α (1 = plain)", "VAR": "VAR: p (0 = plain)", "ACT": "ACT: β (1 = plain)"}
    whole = whole.assign(panel=whole["repair"].map(names))
    figure = lines(whole, "setting", by="measure", panel="panel", y_title="share")
    return figure.update_xaxes(title_text="strength", matches=None)


def preconditions(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return bars(rows, "measure", panel="unit")


def cost(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return bars(rows.assign(repair=rows["repair"].replace({"none": PLAIN})), "repair")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, unit="share of examples")


def at_first_strength(rows: pd.DataFrame) -> pd.DataFrame:
    """The strength that a repair's rows begin with, over the whole task."""
    rows = rows[rows["subset"] == "all"]
    first = rows.groupby("repair", sort=False)["setting"].transform("first")
    return rows[rows["setting"] == first]


def without_controls(rows: pd.DataFrame) -> pd.DataFrame:
    """Repairs at all strengths, but the words of captions, which are no share."""
    return rows[(rows["subset"] == "all") & (rows["control"] == "") & (rows["unit"] == "share")]


SMALL = "At the papers' strengths; no strength was chosen on these examples."
FIGURES = [
    Drawing(
        "differences",
        "differences",
        {},
        "What each repair changes, and what its controls change",
        "The measure with the repair minus the plain model's; the controls minus the plain model's; and the repair "
        f"minus each control, paired by example. {SMALL} Controls with random heads or columns are pooled over draws.",
        differences,
        "Whiskers",
        select=at_first_strength,
    ),
    Drawing(
        "measures",
        "measures",
        {},
        "Before, after, control",
        f"Every measure by itself. {SMALL}",
        measures,
        "Whiskers",
        select=at_first_strength,
    ),
    Drawing(
        "strengths",
        "measures",
        {},
        "Every measure by strength",
        "VHR multiplies chosen heads by α, VAR gives away the share p of the attention on sinks, ACT multiplies hidden "
        "sinks by β. The papers' strengths are α = 2 and β = 0.4; VAR's released configuration keeps 0.6, so p = 0.4 "
        "moves. An α below 1 lowers the same heads: it has to make things worse.",
        strengths,
        "Bands",
        select=without_controls,
    ),
    Drawing(
        "preconditions",
        "preconditions",
        {"subset": "all"},
        "What the verdicts need",
        "How far the plain model is above guessing between the two answers, in what share of VAR's layers an example "
        "has a visual sink (without one the released code changes nothing), and how many heads ACT calibrates.",
        preconditions,
        "Whiskers",
    ),
    Drawing(
        "cost",
        "cost",
        {},
        "What a repair costs",
        "Time per token of a short greedy generation, its prompt included, over the plain model's in interleaved "
        "rounds. Whiskers: quartiles over rounds. VHR reads the prompt three times, once an answer.",
        cost,
    ),
    Drawing(
        "chosen",
        "heads",
        {},
        "Which heads VHR chooses",
        "Share of the examples in which a head is among those that are reinforced; layers that VHR leaves alone are 0.",
        heads,
    ),
]
