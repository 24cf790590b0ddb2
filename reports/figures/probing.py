"""Figures of probing: what linear probes read from the states, how selective they are, where they read best."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, heat_map, lines, picture_maps
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views

PANELS = 3  # targets of an open figure; all others lie in a fold
LAST, IMAGE, TOWER = "last position", "mean over image tokens", "mean over the vision tower's patches"
PLACE = "row and column of the patch alone"
RANDOM = "random weights"
QUERIES = 4  # that are drawn, a figure each
PERMUTED, TASK = "labels permuted over groups", "random labels (control task)"
FIRST = "the state before the first layer"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Accuracy at the last position and of single patches; all others in folds."""
    return draw_all(FIGURES, tables)


def curves(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each target, itself and its controls."""
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "state", by="line", panel="target", y_title="balanced accuracy", markers=False)


def selectivity(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = heat_map(first_condition(rows), "state", "target", panel="place", signed=True)
    return figure.update_yaxes(title_text="")


def best(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    return dots(shown, "target", panel="place", x_title="balanced accuracy")


def pooling(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    return dots(shown, "target", panel="pooling", x_title="balanced accuracy")


def query(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    pictures = first_condition(tables["pictures"])
    shown = first_condition(rows).assign(
        looked=lambda one: one["value"] >= one.groupby("example")["value"].transform("max")
    )
    return picture_maps(shown, pictures, flag="looked", unit="× an even share")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(views(first_condition(rows)), panel="target", view="view", unit="balanced accuracy")


def _shown(*controls: str, folded: bool = False) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The targets of an open figure (of pictures, what they show), or all others, with the controls of these names."""

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        pictured = rows[rows["about"] == "picture"]
        ordered = pictured if (rows["place"] != LAST).all() and len(pictured) else rows
        mine = rows["target"].isin(ordered["target"].drop_duplicates()[:PANELS])
        return _with(rows[mine != folded], *controls)

    return select


def _with(rows: pd.DataFrame, *controls: str) -> pd.DataFrame:
    return rows[rows["control"].fillna("").isin(["", *controls])]


READ = (
    "Permuted labels say what guessing gives. No higher than random labels of a word, a probe shows only that it can "
    "tell words apart."
)
AS_IT_CAME = "Above the state before the first layer, the layers have made more readable what the projector gave them."
OF_PATCHES = (
    "Above what the patch's row and column tell, the state holds what lies there. What can be read with random weights "
    "as well comes with the pixels and was not learned."
)
FIGURES = [
    Drawing(
        "last",
        "accuracy",
        {"place": LAST},
        "What can be read from the state that predicts the answer",
        curves,
        "Balanced accuracy of linear probes on held-out groups, state by state. State 0 enters the first layer: it is "
        "one token, the same in prompts that end alike.",
        READ,
        interval="Bands",
        control="Dotted",
        select=_shown(PERMUTED, TASK, RANDOM),
        claims=("the answer in the middle layers",),
    ),
    Drawing(
        "image",
        "accuracy",
        {"place": IMAGE},
        "What can be read from the image tokens",
        curves,
        "Balanced accuracy of probes on the mean state of the image tokens, which stand before the question, for what "
        "the picture shows.",
        AS_IT_CAME,
        "mean image token",
        interval="Bands",
        control="Dotted",
        select=_shown(FIRST, PERMUTED, RANDOM),
        claims=("the picture in the middle layers",),
    ),
    Drawing(
        "patches",
        "patches",
        {"stack": "decoder"},
        "What a single image token tells of what lies there",
        curves,
        "Balanced accuracy of probes on the states of single image tokens: whether a thing lies there, and its colour "
        "and shape where one does. State 0 is what the projector gives.",
        OF_PATCHES,
        interval="Bands",
        control="Dotted",
        select=lambda rows: _with(rows, PERMUTED, PLACE, RANDOM),
        claims=("what lies there",),
    ),
    Drawing(
        "best",
        "best",
        {},
        "Each target at its best state",
        best,
        "Balanced accuracy at the state that is best on one half of the groups, measured on the other half.",
        "",
        "best states",
        interval="Whiskers",
        control="Grey ticks",
        select=lambda rows: _with(rows, PERMUTED, TASK),
    ),
    Drawing(
        "selectivity",
        "selectivity",
        {},
        "How much better than the control task",
        selectivity,
        "Accuracy of a target minus that of its control task: a random label for each value of a word of the prompt, "
        "for image tokens and the tower for each first object of the picture's description.",
        "Above 0 the states hold the target itself; below, the prompt's words are read more easily. Intervals stand in "
        "the table.",
        "control task",
    ),
    Drawing(
        "tower_patches",
        "patches",
        {"stack": "vision tower"},
        "What a single patch of the vision tower tells",
        curves,
        "The same probes on the same patches in the vision tower, block by block. State 0 enters the first block.",
        OF_PATCHES,
        "vision tower",
        interval="Bands",
        control="Dotted",
        select=lambda rows: _with(rows, PERMUTED, PLACE, RANDOM),
    ),
    Drawing(
        "tower",
        "accuracy",
        {"place": TOWER},
        "What the mean of the vision tower's patches tells",
        curves,
        "Balanced accuracy of probes on the mean state of the vision tower's patches, for what the picture shows.",
        "Above the state before the first block, the tower has made it more readable.",
        "vision tower",
        interval="Bands",
        control="Dotted",
        select=_shown(FIRST, PERMUTED, RANDOM),
    ),
    Drawing(
        "pooling",
        "pooling",
        {},
        "Learned queries beside the mean of the patches",
        pooling,
        "Balanced accuracy of two ways of pooling a picture's patches, trained alike: queries that learn where to "
        "look, and the mean of all patches.",
        "Where few patches tell the answer, queries can find them; what is counted over the picture, a mean keeps.",
        "learned queries",
        interval="Whiskers",
        control="Grey ticks",
        claims=("learned queries",),
    ),
    *(
        Drawing(
            f"query{number}",
            "query_maps",
            {"query": number},
            f"Where query {number} looks",
            query,
            "How much of its attention a learned query gives each patch, over pictures that it was not trained on, in "
            "multiples of an even share (the same on all patches); the largest is framed. Illustrations, not a "
            "measurement.",
            "A query learns what tells the first target apart; nothing tells it to look at objects. Pictures of other "
            "folds have queries of their own.",
            "learned queries",
        )
        for number in range(1, QUERIES + 1)
    ),
    Drawing(
        "last_more",
        "accuracy",
        {"place": LAST},
        "What else can be read from the state that predicts the answer",
        curves,
        "Balanced accuracy of linear probes on held-out groups, state by state, of all other targets.",
        READ,
        "more targets",
        interval="Bands",
        control="Dotted",
        select=_shown(PERMUTED, TASK, RANDOM, folded=True),
    ),
    Drawing(
        "image_more",
        "accuracy",
        {"place": IMAGE},
        "What else can be read from the image tokens",
        curves,
        "Balanced accuracy from the mean state of the image tokens, of what the question asks for: more than guessing "
        "comes from the picture alone.",
        AS_IT_CAME,
        "more targets",
        interval="Bands",
        control="Dotted",
        select=_shown(FIRST, PERMUTED, RANDOM, folded=True),
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "What each head's output tells",
        heads,
        "Balanced accuracy of probes on one head's output at the last position.",
        "",
        "heads",
        select=lambda rows: _with(rows, PERMUTED),
    ),
]
