"""Figures of collapse: how far one repetition more moves the last state, by the length of the run and by layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all, first_condition

ALL = "all"
TITLES = {"largest differences": "distance, 1 at the shortest run", "relative distance": "relative distance"}
CLAIMS = ("one more is seen less and less", "another token is still seen")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """By the length of the run, the paper's measure and the relative distance; by state at the shortest and longest."""
    return draw_all(FIGURES, tables)


def by_length(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each form of the prompt; both axes logarithmic."""
    shown = first_condition(rows).assign(line="one repetition more")
    figure = lines(shown, "times", by="line", panel="front", log_y=True, y_title=TITLES[str(rows["measure"].iloc[0])])
    ticks = sorted(shown["times"].unique().tolist())
    named = {"tickvals": ticks, "ticktext": [*map(str, ticks)]}
    return figure.update_xaxes(type="log", title_text="repetitions n", **named)


def by_state(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """The shortest and the longest run side by side."""
    shown = first_condition(rows)
    ends = shown[shown["times"].isin([shown["times"].min(), shown["times"].max()])]
    told = ends.assign(run=[f"behind {times}" for times in ends["times"]], line="one repetition more")
    moved = told[told["state"] > 0]  # what enters the first layer is the token alone
    if moved.empty:
        return None
    return lines(moved, "state", by="line", panel="run", log_y=True, y_title="relative distance", markers=False)


def _forms(rows: pd.DataFrame) -> pd.DataFrame:
    """Each form of the prompt, or all prompts where they have one form alone."""
    forms = rows[rows["front"] != ALL]
    return forms if len(forms) else rows


FIGURES = [
    Drawing(
        "final",
        "distances",
        {"measure": "largest differences"},
        "How far one repetition more moves the last state",
        by_length,
        "Distance of the last states of a prompt that ends in a token written n times and n + 1 times, after the final "
        "norm: the largest difference in each 64 channels, mean over these, over its value at the shortest run. "
        "Across: n. Panels: whether one other token stands between the question and the run.",
        "Falling: the longer the run, the less one more is seen. A fall as deep with random weights is the "
        "architecture's, which averages over more and more tokens.",
        interval="Bands",
        control="Dotted",
        select=_forms,
        claims=CLAIMS,
    ),
    Drawing(
        "relative",
        "distances",
        {"measure": "relative distance"},
        "The same distance, as it is",
        by_length,
        "‖a − b‖ over the mean of ‖a‖ and ‖b‖ of the same states, after the final norm; nothing is divided by the "
        "shortest run.",
        "The distance between the solid line and another last token is what one more repetition is worth.",
        interval="Bands",
        control="Dotted",
        select=_forms,
    ),
    Drawing(
        "layers",
        "layers",
        {},
        "Where on the way it is lost",
        by_state,
        "Relative distance in the residual stream, state by state, behind the shortest run and behind the longest; all "
        "prompts. State 0, the token alone, does not differ and is left out.",
        "Lower on the right than on the left: these layers tell longer runs apart less well.",
        interval="Bands",
        control="Dotted",
    ),
]
