"""Figures of looking: what reading the picture more changes, by edit and strength, beside controls; other text."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots
from .drawing import Drawing, Tables, draw_all, first_condition

LEAD, GAZE, AS_IT_IS = "the answer's lead", "gaze shift", "as it is"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Changes by strength, the gaze shift, before and after, other text; folds: by what is right, draw by draw."""
    return draw_all(FIGURES, tables)


def _looks(rows: pd.DataFrame) -> pd.DataFrame:
    rows = first_condition(rows)
    return rows[rows["edit"] != GAZE]


def _gazes(rows: pd.DataFrame) -> pd.DataFrame:
    rows = first_condition(rows)
    return rows[rows["edit"] == GAZE]


def _said(rows: pd.DataFrame) -> pd.Series:
    """ "every head, × 2", "gaze shift, α = 5"."""
    strength = [
        "" if edit == AS_IT_IS else f", α = {one:g}" if edit == GAZE else f", × {one:g}"
        for edit, one in zip(rows["edit"], rows["strength"], strict=True)
    ]
    return rows["edit"] + strength


def changes(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(what=_said(rows)), "what", zero=True, x_title="change of the lead (logits)")


def by_answer(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    apart = rows[rows["questions"] != "all questions"]
    if apart.empty:
        return None
    return dots(apart.assign(what=_said(apart)), "what", panel="questions", zero=True)


def levels(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(what=_said(rows)), "what", panel="measure")


def draws(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The edit itself first, then its control's draws from the largest down."""
    parts = []
    for edit, some in rows.groupby("edit", sort=False):
        order = some.sort_values(["draw", "value"], ascending=[True, False], key=_own_first)
        named = ["the edit itself" if draw < 0 else f"draw {int(draw)}" for draw in order["draw"]]
        parts.append(order.assign(what=named, control="", panel=f"{edit}: {some['control'].max()}"))
    return dots(pd.concat(parts), "what", panel="panel", zero=True)


def _own_first(column: pd.Series) -> pd.Series:
    return (column >= 0).astype(int) if column.name == "draw" else column


def neutral(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(what=_said(rows)), "what", zero=True, x_title="loss, more than as it is (nats a token)")


CHANGE = (
    "Change of the answer's lead (its logit minus the mean of the wrong options') when every row behind the picture "
    "reads the picture's tokens "
)
BLANK = "A blank picture: the same edit on the same question with a grey picture, against the unedited model with it."
FIGURES = [
    Drawing(
        "effects",
        "effects",
        {"measure": LEAD, "questions": "all questions"},
        "What reading the picture more does to the answer",
        changes,
        f"{CHANGE}×½ … ×8 as much as it does by itself: in the heads that read it most, or in every head. {BLANK}",
        "Right of 0 and of the grey ticks: looking more helps. A dot on the ticks changes the answer as it would in "
        "other heads, or without anything to see.",
        interval="Whiskers",
        control="Grey ticks",
        select=_looks,
        claims=("chosen heads help", "every head helps", "looking less hurts"),
    ),
    Drawing(
        "gaze",
        "effects",
        {"measure": LEAD, "questions": "all questions"},
        "What reading the patches does that the gaze moves to",
        changes,
        f"{CHANGE}exp(α · map) as much. Map, 0…1: how much attention each patch gains as the words of the question are "
        "read. The map permuted: its values at other patches. The map of another image: that of the same question.",
        "Right of 0 and of the grey ticks: it helps to look there, and not just anywhere.",
        interval="Whiskers",
        control="Grey ticks",
        select=_gazes,
        claims=("the gaze shift helps",),
    ),
    Drawing(
        "levels",
        "levels",
        {},
        "Before and after",
        levels,
        "The answer's lead, accuracy among the options and, of yes-or-no questions, the share answered “yes”, as the "
        "model is and under each edit.",
        "Compare with the line as it is. Where “yes” comes or goes while accuracy stays, the edit moves answers "
        "whatever is seen.",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
    Drawing(
        "neutral",
        "neutral",
        {},
        "What the same edit does to text behind a picture",
        neutral,
        "Loss of passages of novels behind pictures of the task, with which they have nothing to do, minus that of the "
        "model as it is; at the strengths that claims are read at.",
        "Near 0: the edit leaves the model's reading of other text alone.",
        interval="Whiskers",
        control="Grey ticks",
        claims=("other text stays",),
    ),
    Drawing(
        "gaze-asked",
        "effects",
        {"measure": LEAD},
        "The gaze shift, by what is right",
        by_answer,
        "The same change, apart for yes-or-no questions whose right answer is yes or no, and for other questions.",
        "Where yes gains what no loses, the edit pushes to one answer and sees no better.",
        theme="by right answer",
        interval="Whiskers",
        control="Grey ticks",
        select=_gazes,
        claims=("absent things stay absent",),
    ),
    Drawing(
        "effects-asked",
        "effects",
        {"measure": LEAD},
        "Reading the picture more, by what is right",
        by_answer,
        "The same change, apart for yes-or-no questions whose right answer is yes or no, and for other questions.",
        "Where yes gains what no loses, the edit pushes to one answer and sees no better.",
        theme="by right answer",
        interval="Whiskers",
        control="Grey ticks",
        select=_looks,
    ),
    Drawing(
        "draws",
        "draws",
        {},
        "Each random draw",
        draws,
        "Change of the answer's lead with the edit itself, and with each draw of its control (random heads; the map at "
        "other patches), at the strength that claims are read at.",
        "The edit itself has to lie right of nearly all draws.",
        theme="random draws",
        interval="Whiskers",
        select=first_condition,
    ),
]
