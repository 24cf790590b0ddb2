"""Figures of similarity: how alike the states of two sets are, what pairs of them share, layers beside layers."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import heat_map, lines
from ..charts.style import sized
from .drawing import Drawing, Tables, draw_all, first_condition

AS_THEY_ARE, CENTRED = "as they are", "centred"
DIFFERENT, CONTENT = "different", "same − different"
ENTERING = "image at state 0"
BETWEEN = PICTURES, _LABELS = "image and text", "two labels"
FIRST_AND_OTHER = "state of the first", "state of the other"
HEIGHT = 400  # px of a map of layers


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Cosines of different examples, what pairs share, kernels, layers beside layers; in folds the rest."""
    return draw_all(FIGURES, tables)


def curves(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    """The line has the name of what is compared."""
    compared = next((str(name) for name in tables["layers"]["sets"] if name in BETWEEN), "measured")
    shown = first_condition(rows).assign(line=compared)
    return lines(shown, "state", by="line", y_title="cosine", markers=False)


def by_form(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel without the sets' means, and one with them."""
    shown = first_condition(rows).sort_values("states", key=lambda s: s != CENTRED, kind="stable")
    shown = shown.assign(line="measured", states="states " + shown["states"])
    return lines(shown, "state", by="line", panel="states", y_title="cosine, difference", markers=False)


def cka(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "state", by="line", panel="measure", y_title="CKA", markers=False)


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The first set to the right, the other up; a button for each two sets where there are several."""
    shown = first_condition(rows)
    x, y = ("state of the image", "state of the text") if (shown["sets"] == PICTURES).all() else FIRST_AND_OTHER
    figure = heat_map(shown.rename(columns={"state": x, "other": y}), x, y, view="sets", signed=True)
    return sized(figure, HEIGHT)


def _between(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["sets"].isin(BETWEEN)]


def _within(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["sets"].isin(BETWEEN)]


def each_pair(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "state", by="labels", y_title="cosine, difference", markers=False)


def modes(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each mode."""
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "state", by="line", panel="mode", y_title="cosine", markers=False)


FIGURES = [
    Drawing(
        "curves",
        "likeness",
        {"states": AS_THEY_ARE, "measure": DIFFERENT},
        "How alike the states of both sets are, whatever the examples",
        curves,
        "Cosine of the mean state of one set (images, or texts in one language) with that of another example of the "
        "other set (texts, or texts in another language), mean over all such pairs, state by state. State 0 enters the "
        "first layer.",
        "Where the dotted lines are high as well, all states point the same way, and a high solid line says little. "
        "Below the dotted lines, the two sets keep apart.",
        interval="Bands",
        control="Dotted",
        claims=("image and text grow alike", "texts are nearer to texts"),
    ),
    Drawing(
        "content",
        "likeness",
        {"measure": CONTENT},
        "What the two of a pair share beyond what any two share",
        by_form,
        "Cosine of two states that belong together (an image and its own text, or the same page in two languages) "
        "minus that of different examples, state by state; on the left after subtracting each set's mean state.",
        "Above 0 the states hold something of this very example. Text behind an image can read it, so what they share "
        "need not be encoded twice.",
        interval="Bands",
        control="Dotted",
        claims=("a pair shares content", "pages meet in the middle"),
    ),
    Drawing(
        "layers",
        "layers",
        {"measure": CONTENT},
        "Every state beside every state: what the two of a pair share",
        layers,
        "Cosine of a state of the one of a pair (to the right) with a state of the other (up), minus that of "
        "different examples, after subtracting each set's mean state.",
        "Red away from the diagonal: one set has at this depth what the other has at another. Intervals, by 20 folds "
        "of groups, stand in the table.",
        select=_between,
    ),
    Drawing(
        "layers_alike",
        "layers",
        {"measure": DIFFERENT},
        "Every state beside every state: how alike, whatever the examples",
        layers,
        "Cosine of a state of the one set with a state of the other, of different examples, as they are.",
        "",
        "layers by layers",
        select=_between,
    ),
    Drawing(
        "layers_within",
        "layers",
        {"measure": CONTENT},
        "Every state beside every state of the same set",
        layers,
        "Cosine of an example's state with the state of the same example (of texts of one label: of the same group) "
        "in another layer, minus that of different examples, after subtracting the set's mean state.",
        "1 on the diagonal is the state itself; blocks are layers that keep what tells examples apart.",
        "layers by layers",
        select=_within,
    ),
    Drawing(
        "cka",
        "cka",
        {},
        "Whether both sets order the examples alike",
        cka,
        "Linear CKA, state by state: 1 where examples are as near to each other in one set as in the other, whatever "
        "the directions; 0 (unbiased) where not at all.",
        "Plain CKA is lifted where examples are fewer than dimensions, as its dotted line shows: read the unbiased "
        "one. Bands: groups are dealt to at most 20 folds, left out in turn.",
        "order of examples",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "entering",
        "likeness",
        {"measure": ENTERING},
        "What the image holds of its text before the first layer",
        by_form,
        "Cosine of the image's mean state as it enters the first layer with the text's mean state in each state, of "
        "the same example minus that of different examples.",
        "Above 0 the text's states come to lie where the projector put the picture.",
        "before layer 0",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "same",
        "likeness",
        {"states": AS_THEY_ARE, "measure": "same"},
        "Cosine of the two of a pair",
        curves,
        "Cosine of two states that belong together, as they are: with all that any two states share.",
        "",
        "pairs as they are",
        interval="Bands",
    ),
    Drawing(
        "pairs",
        "pairs",
        {},
        "What pairs share, of each two languages",
        each_pair,
        "Cosine of two texts of the same page in two languages (or of one group with two labels) minus that of "
        "different pages, after subtracting each language's mean state.",
        "",
        "each two languages",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "modes",
        "modes",
        {"measure": "cosine"},
        "Every image token beside every token of the text",
        modes,
        "Cosines of all tokens of an image with all tokens of its example's text, state by state: their mean, the "
        "largest, the median, and the largest of each image token, mean over image tokens.",
        "The largest of many cosines is high by chance. Only above the dotted line, the tokens of another image "
        "beside the same words, do the tokens say something of this very image.",
        "token by token",
        interval="Bands",
        control="Dotted",
    ),
]
