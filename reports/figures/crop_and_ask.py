"""Figures of crop and ask: what a crop adds, what it holds, by size of the object, cost, crops on some pictures."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, picture_maps
from .drawing import Drawing, Tables, draw_all, first_condition

WHOLE, TWICE = "the whole picture", "the whole picture twice"
SAME = "random crop of the same size"
# A line of the figure -> the pictures that are controls of it, under the names that their marks have.
LINES = {
    "attention crop": {SAME: SAME, "centre crop": "centre crop", TWICE: TWICE},
    "CARVE crop": {"random crop of the CARVE crop's size": SAME, TWICE: TWICE},
    "crop around the asked object": {},
}
TOGETHER, ALONE = "image and crop", "crop alone"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Gains first: they are the evidence."""
    return draw_all(FIGURES, tables)


def on_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each line and, as its controls, those of the pictures that it is compared with."""
    parts = []
    for line, controls in LINES.items():
        parts.append(rows[rows["crop"] == line].assign(control=""))
        parts += [rows[rows["crop"] == crop].assign(crop=line, control=name) for crop, name in controls.items()]
    return pd.concat(parts, ignore_index=True)


def gains(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A line for each crop, its controls on it; zero: nothing changes."""
    return dots(first_condition(rows), "crop", zero=True, x_title="right answers gained, share")


def crops(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "crop", panel="measure", x_title="share")


def sizes(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each size, on one scale."""
    figure = dots(first_condition(rows), "crop", panel="size", zero=True, x_title="right answers gained, share")
    return figure.update_xaxes(matches="x")


def answers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Every measure, the whole picture above the others."""
    rows = first_condition(rows)
    named = rows["crop"] + rows["shown"].where(rows["shown"] == "", ", " + rows["shown"])
    return dots(rows.assign(picture=named), "picture", panel="measure")


def on_pictures(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    pictures = tables["pictures"]
    return picture_maps(rows, pictures[pictures["example"].isin(rows["example"])], flag="inside", unit="of the largest")


GAINS = (
    "Share of right answers with {}, less that with the whole picture alone. The whole picture twice is what a second "
    "picture does by itself; the crop around the asked object is the most that a crop of that size can do."
)
READ = "Right of zero and of its grey marks: it helps to see more of that place, not just to see more."
FIGURES = [
    Drawing(
        "gains",
        "gains",
        {"measure": "right", "than": WHOLE, "shown": TOGETHER},
        "Does a crop of where it looks help, shown beside the whole picture?",
        gains,
        GAINS.format("the crop behind the whole picture in the prompt"),
        READ,
        interval="Whiskers",
        control="Grey",
        select=on_lines,
        claims=("cropping helps",),
    ),
    Drawing(
        "alone",
        "gains",
        {"measure": "right", "than": WHOLE, "shown": ALONE},
        "Does the crop alone help?",
        gains,
        "Share of right answers with the crop in the place of the picture, less that with the whole picture.",
        READ,
        "the crop alone",
        interval="Whiskers",
        control="Grey",
        select=on_lines,
        claims=("CARVE helps",),
    ),
    Drawing(
        "sizes",
        "sizes",
        {"measure": "gain over the whole picture", "shown": TOGETHER},
        "Does it help small objects more?",
        sizes,
        "The same gain by the asked object's share of the picture.",
        "A dot farther right in the left panel than in the right one: small objects gain more.",
        interval="Whiskers",
        control="Grey",
        select=on_lines,
        claims=("more for small objects",),
    ),
    Drawing(
        "crops",
        "crops",
        {},
        "Does the crop hold what is asked for?",
        crops,
        "How much of the asked object lies in each crop, and how much of the picture the crop is.",
        "A dot to the right of its grey marks: the map points at the object.",
        interval="Whiskers",
        control="Grey",
        select=on_lines,
        claims=("the crop holds it",),
    ),
    Drawing(
        "sizes-alone",
        "sizes",
        {"measure": "gain over the whole picture", "shown": ALONE},
        "Does the crop alone help small objects more?",
        sizes,
        "Share of right answers with the crop alone, less that with the whole picture, by the asked object's size.",
        "",
        "the crop alone",
        interval="Whiskers",
        control="Grey",
        select=on_lines,
    ),
    Drawing(
        "answers",
        "answers",
        {},
        "Answers about every picture that was shown",
        answers,
        "Share of right answers, log probability of the answer's first token, its lead over the likeliest wrong one, "
        "and how many tokens the prompt has: what the second look costs.",
        "",
        "answers and cost",
        interval="Whiskers",
    ),
    Drawing(
        "on-pictures",
        "on_pictures",
        {},
        "Where the picture was cropped",
        on_pictures,
        "Relative attention over the first pictures: illustrations, not a measurement.",
        "Framed: cells whose middle lies in the attention crop.",
        "pictures",
    ),
]
