"""Figures of the repairs: before, after, control; differences; strengths; cost."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .drawing import Drawing, Tables, draw_all

PLAIN = "plain model"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Differences first: they are the evidence."""
    return draw_all(FIGURES, tables)


def differences(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """What each repair changes, a line each; on it, what its controls change."""
    return dots(rows.assign(line=named(rows)), "line", panel="measure", zero=True)


def margins(rows: pd.DataFrame, _: Tables) -> go.Figure:
    name = named(rows) + " − " + rows["against"]
    return dots(rows.assign(comparison=name), "comparison", panel="measure", zero=True)


def measures(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The plain model, then every repair with its controls."""
    return dots(rows.assign(model=rows["repair"].replace({"none": PLAIN})), "model", panel="measure")


def strengths(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """One panel per repair; the plain model as the strength that changes nothing."""
    plain = rows[rows["repair"] == "none"]
    neutral = {"VHR": 1.0, "VAR": 0.0, "ACT": 1.0}
    parts = [rows[rows["repair"].isin(neutral)]]
    parts += [plain.assign(repair=name, setting=at) for name, at in neutral.items() if (rows["repair"] == name).any()]
    whole = pd.concat(parts, ignore_index=True).drop(columns="control")
    if whole.empty or whole.groupby("repair")["setting"].nunique().max() < 3:
        return None  # one strength beside the plain model: the figure of differences says it
    names = {"VHR": "VHR: α (1 = plain)", "VAR": "VAR: p (0 = plain)", "ACT": "ACT: β (1 = plain)"}
    whole = whole.assign(panel=whole["repair"].map(names))
    figure = lines(whole, "setting", by="measure", panel="panel", y_title="share")
    return figure.update_xaxes(title_text="strength", matches=None)


def preconditions(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows, "measure", panel="unit")


def cost(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(repair=rows["repair"].replace({"none": PLAIN})), "repair")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, unit="share of examples")


def at_first_strength(rows: pd.DataFrame) -> pd.DataFrame:
    """The strength that a repair's rows begin with, over the whole task."""
    rows = rows[rows["subset"] == "all"]
    first = rows.groupby("repair", sort=False)["setting"].transform("first")
    return rows[rows["setting"] == first]


def below_1(rows: pd.DataFrame) -> pd.Series:
    """Where head reinforcement lets heads speak lower."""
    return (rows["repair"] == "VHR") & (rows["setting"] < 1)


def named(rows: pd.DataFrame) -> pd.Series:
    """The repair; below 1 with its strength."""
    return rows["repair"].mask(below_1(rows), rows["repair"] + ", α = " + rows["setting"].map("{:g}".format))


def as_they_are(rows: pd.DataFrame) -> pd.DataFrame:
    """The repairs at their first strength, of reinforcement also the first below 1; no other rules."""
    parts = [at_first_strength(part) for _, part in rows.groupby(below_1(rows))]
    shown = rows.loc[pd.concat(parts).index.sort_values()]
    return shown[~shown["repair"].isin(other_rules(shown))]


def against_plain(rows: pd.DataFrame) -> pd.DataFrame:
    rows = as_they_are(rows)
    return rows[rows["against"] == "plain"]


def against_controls(rows: pd.DataFrame) -> pd.DataFrame:
    rows = as_they_are(rows)
    return rows[rows["against"] != "plain"]


def against_itself(rows: pd.DataFrame) -> pd.DataFrame:
    """Other rules against the repair as it is."""
    rows = at_first_strength(rows)
    return rows[rows["repair"].isin(other_rules(rows)) & (rows["against"] != "plain")]


def other_rules(rows: pd.DataFrame) -> list[str]:
    """ "VAR, every head" and the like."""
    return [name for name in rows["repair"].unique() if "," in name]


def without_controls(rows: pd.DataFrame) -> pd.DataFrame:
    """Repairs at all strengths, but the words of captions, which are no share."""
    return rows[(rows["subset"] == "all") & (rows["control"] == "") & (rows["unit"] == "share")]


CLAIMED = tuple(
    f"{repair} {does}" for repair in ("VHR", "VAR", "ACT") for does in ("raises accuracy", "lowers CHAIR_I")
)
CLAIMED += ("VHR below 1 lowers the lead", "VHR below 1 raises CHAIR_I")
SMALL = "At the papers' strengths; no strength was chosen on these examples."
FIGURES = [
    Drawing(
        "differences",
        "differences",
        {},
        "What each repair changes, and what its controls change",
        differences,
        "Each measure with the repair minus the plain model's (dots), and the same for its controls (grey ticks; "
        f"random heads or columns are pooled over draws), paired by example. {SMALL}",
        "At 0 nothing changed: where no answer changed, that is undecided, not refuted. Half of a whisker's length is "
        "the smallest effect that n shows. VHR with α below 1 lets the same heads speak lower: it has to do the "
        "opposite.",
        interval="Whiskers",
        control="Grey ticks",
        select=against_plain,
        claims=CLAIMED,
    ),
    Drawing(
        "margins",
        "differences",
        {},
        "What each repair changes beyond its controls",
        margins,
        "Each measure with the repair minus the same with its control, paired by example.",
        "At 0 the control does as well.",
        interval="Whiskers",
        select=against_controls,
    ),
    Drawing(
        "rules",
        "differences",
        {},
        "The same repairs by other rules",
        margins,
        "Each measure with the repair done otherwise minus the same with the repair as it is, paired by example. VHR: "
        "at all positions of the prompt instead of the last alone; or without the filter that leaves outlying heads "
        "out. VAR: in every head; in heads whose attention on the image falls on other tokens than sinks by at "
        "least ρ; or with what sinks lose given to the text, or to text and image.",
        "At 0 the rule makes no difference.",
        "other rules",
        "Whiskers",
        select=against_itself,
    ),
    Drawing(
        "strengths",
        "measures",
        {},
        "Every measure by strength",
        strengths,
        "VHR multiplies chosen heads by α, VAR gives away the share p of the attention on sinks, ACT multiplies hidden "
        "sinks by β. The papers' strengths are α = 2 and β = 0.4; VAR's released configuration keeps 0.6, so p = 0.4 "
        "moves.",
        "An α below 1 lowers the same heads: it has to make things worse.",
        "by strength",
        "Bands",
        select=without_controls,
    ),
    Drawing(
        "preconditions",
        "preconditions",
        {"subset": "all"},
        "What the verdicts need",
        preconditions,
        "How far the plain model is above guessing between the two answers, in what share of VAR's layers an example "
        "has a visual sink, and how many heads ACT calibrates.",
        "Without a visual sink VAR's released code changes nothing.",
        interval="Whiskers",
    ),
    Drawing(
        "measures",
        "measures",
        {},
        "Before, after, control",
        measures,
        f"Every measure by itself. {SMALL}",
        "A dot on its grey ticks does what the controls do.",
        "each measure",
        "Whiskers",
        "Grey ticks",
        select=at_first_strength,
    ),
    Drawing(
        "cost",
        "cost",
        {},
        "What a repair costs",
        cost,
        "Time per token of a short greedy generation, its prompt included, over the plain model's in interleaved "
        "rounds. Whiskers: quartiles over rounds.",
        "1: as fast as the plain model. VHR reads the prompt three times, once an answer.",
        "cost",
    ),
    Drawing(
        "chosen",
        "heads",
        {},
        "Which heads VHR chooses",
        heads,
        "Share of the examples in which a head is among those that are reinforced.",
        "Layers that VHR leaves alone are 0.",
        "by head",
    ),
]
