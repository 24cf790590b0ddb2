"""Figures of probing: what linear probes read from the states, how selective they are, where they read best."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, heat_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views

PANELS = 6  # targets of one figure; the map of selectivity shows all
LAST, IMAGE = "last position", "mean over image tokens"
PERMUTED, TASK = "labels permuted over groups", "random labels of a word (control task)"
FIRST = "the state before the first layer"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Accuracy at the last position and over the image, selectivity, the best states; heads in a fold."""
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


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(views(first_condition(rows)), panel="target", view="view", unit="balanced accuracy")


def _first(controls: tuple[str, ...]):
    """The first targets with their controls of these names."""

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        targets = rows["target"].drop_duplicates()[:PANELS]
        return rows[rows["target"].isin(targets) & rows["control"].fillna("").isin(["", *controls])]

    return select


READ = (
    "Dotted, permuted labels say what guessing gives. As high as random labels of a word, a probe shows only that it "
    "can tell the prompt's words apart and learn any label for them."
)
FIGURES = [
    Drawing(
        "last",
        "accuracy",
        {"place": LAST},
        "What can be read from the state that predicts the answer",
        curves,
        f"Balanced accuracy of linear probes on held-out groups, state by state, of the first {PANELS} targets; state "
        "0 enters the first layer and is the same token in all prompts of a task that ends them alike.",
        READ,
        interval="Bands",
        control="Dotted",
        select=_first((PERMUTED, TASK)),
        claims=("the answer before the last layer",),
    ),
    Drawing(
        "image",
        "accuracy",
        {"place": IMAGE},
        "What can be read from the image tokens",
        curves,
        "The same of the mean state of the image tokens, which stand before the question and do not know it.",
        "Above the dotted line of the state before the first layer, the layers have made more readable what the vision "
        "tower and its projector gave them.",
        interval="Bands",
        control="Dotted",
        select=_first((FIRST, PERMUTED)),
        claims=("the picture in the middle layers",),
    ),
    Drawing(
        "selectivity",
        "selectivity",
        {},
        "How much better than random labels of a word",
        selectivity,
        "Accuracy of a target minus that of its control task: in the same folds, a random label for each value of a "
        "word of the prompt, for image tokens for each first object that the picture's description names.",
        "Above 0 the states hold the target itself; below, the prompt's words are read more easily. A row of the table "
        "tells each interval.",
    ),
    Drawing(
        "best",
        "best",
        {},
        "Each target at its best state",
        best,
        "Balanced accuracy at the state that is best on one half of the groups, measured on the other half.",
        "",
        interval="Whiskers",
        control="Grey ticks",
        select=_first((PERMUTED, TASK)),
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
        select=_first((PERMUTED,)),
    ),
]
