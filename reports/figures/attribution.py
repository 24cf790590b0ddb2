"""Figures of attribution: prompts coloured by what the answer rests on, curves, methods, attention beside saliency."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines, picture_maps, shaded_words
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views

GIVES = "nats of the answer's log-probability"
SHAPLEY, ABLATION, GRADIENTS = "Shapley sampling", "feature ablation", "integrated gradients"
LOOKS = ("attention", "attention × value")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Words and pictures, curves, attention beside saliency by layer; by method and head in folds."""
    return draw_all(FIGURES, tables)


def on_words(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return shaded_words(rows, unit=GIVES, signed=True)


def on_pictures(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    pictures = tables["pictures"]
    shown = pictures[pictures["example"].isin(rows["example"])]
    return picture_maps(rows, shown, flag="inside", unit=GIVES, signed=True)


def curves(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A line for each method, and a dotted one of the random order."""
    rows = first_condition(rows)
    random = rows[rows["control"].fillna("") != ""]
    methods = [name for name in rows["method"].unique() if name not in set(random["method"])]
    beside = [random.assign(method=methods[0])] if methods else []
    return lines(pd.concat([rows[rows["control"].fillna("") == ""], *beside]), "share", by="method", y_title="log p")


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for attention and one for attention weighted by its values."""
    rows = first_condition(rows)
    return lines(rows.assign(line="the map"), "layer", by="line", panel="map", y_title="r", markers=False)


def looked(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = first_condition(rows)
    shown = rows.assign(shown=rows["map"] + ", " + rows["part"])
    return dots(shown, "shown", panel="first", x_title="r", zero=True)


def parts(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = first_condition(rows)
    return dots(rows.assign(part=rows["part"].str.replace("_", " ")), "part", panel="method", x_title=GIVES, zero=True)


def sums(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """What a map sums up to, beside what all features give together."""
    rows = first_condition(rows)
    whole = rows["measure"] == "whole"
    shown = rows.assign(control=whole.map({True: "all features together", False: ""}))
    return dots(shown, "method", panel="target", x_title="nats", zero=True)


def areas(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "method", panel="curve", x_title="mean log p over the way")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(views(rows), panel="condition", view="view", signed=True, unit="r")


WORDS = (
    "What each word of a few prompts gives the answer's log-probability, by {}: illustrations, not a measurement. A "
    "word's tokens share its value."
)
PICTURES = (
    "What each block of the first pictures gives the answer's log-probability, by {}, over what another picture would "
    "give there: illustrations, not a measurement."
)
COLOURS = "Red: without it the answer would be less likely. Blue: more likely."
CURVES = "The answer's log-probability as words and blocks of the picture are {}, those first that a map holds highest."
FIGURES = [
    Drawing(
        "words",
        "on_words",
        {"method": SHAPLEY},
        "Which words the answer rests on",
        on_words,
        WORDS.format("Shapley sampling"),
        COLOURS,
    ),
    Drawing(
        "pictures",
        "on_pictures",
        {"method": SHAPLEY},
        "Which parts of the picture the answer rests on",
        on_pictures,
        PICTURES.format("Shapley sampling"),
        f"{COLOURS} Framed: blocks that the box of what is asked for touches.",
    ),
    Drawing(
        "deletion",
        "curves",
        {"curve": "deletion"},
        "What an answer loses as parts of its prompt are taken away",
        curves,
        CURVES.format("taken away (for words a mean word comes in their place)"),
        "A line that falls sooner than the dotted one names first what the answer needs.",
        interval="Bands",
        control="Dotted",
        claims=("gradients find it", "attention loses the deletion"),
    ),
    Drawing(
        "layers",
        "layers",
        {"first": "without the first token"},
        "Does attention tell what the answer rests on?",
        layers,
        "Correlation over a prompt's words and blocks of the last position's attention (mean over the layer's heads) "
        "with how much leaving each out changes the next token, layer by layer; the first token left out.",
        "1 would be a full explanation. A line above its dotted ones tells more than places and other prompts do.",
        interval="Bands",
        control="Dotted",
        claims=("attention explains", "attention is not all", "later layers"),
    ),
    Drawing(
        "looked",
        "looked",
        {"correlation": "Pearson"},
        "The mean map, and its heads on average",
        looked,
        "Correlation with saliency by occlusion of the mean map of all heads and layers, and the mean of their own.",
        "A dot to the right of all its grey marks tells what this answer rests on.",
        "attention, saliency",
        interval="Whiskers",
        control="Grey",
        claims=("mean over heads",),
    ),
    *(
        Drawing(
            name,
            "heads",
            {"map": look},
            f"Which heads tell what the answer rests on: {look}",
            heads,
            "Correlation of each head's map with saliency by occlusion, and with another example's.",
            "Red, and pale under its control: the head follows what this answer rests on.",
            "attention, saliency",
            grey="Grey: not told from the control.",
        )
        for name, look in zip(("heads-1", "heads-2"), LOOKS, strict=True)
    ),
    Drawing(
        "insertion",
        "curves",
        {"curve": "insertion"},
        "What an answer gains as parts of its prompt come back",
        curves,
        CURVES.format("put back into an empty prompt"),
        "A line that rises sooner than the dotted one names first what the answer needs.",
        "methods",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "areas",
        "methods",
        {"measure": "area"},
        "Curves in one number",
        areas,
        "The mean height of each deletion and insertion curve.",
        "Deletion: the further left of the grey mark the better. Insertion: the further right.",
        "methods",
        interval="Whiskers",
        control="Grey",
    ),
    Drawing(
        "sums",
        "completeness",
        {},
        "Does a map sum up to what there is?",
        sums,
        "The sum of each map, and what all features together give: the answer's score for the prompt minus that with "
        "everything taken away.",
        "Shapley values meet the mark by construction; integrated gradients as far as their steps are fine enough; the "
        "others do not promise it.",
        "methods",
        interval="Whiskers",
        control="Grey",
        select=lambda rows: rows[rows["measure"].isin(["sum", "whole"])],
    ),
    Drawing(
        "parts",
        "parts",
        {},
        "What the named parts of the prompt give",
        parts,
        "The sum over the words and blocks that a named part of the prompt touches, beside the mean of as many others "
        "of its kind.",
        "A dot to the right of its grey mark: the answer rests on it more than on others.",
        "methods",
        interval="Whiskers",
        control="Grey",
        select=lambda rows: rows[rows["method"].isin([SHAPLEY, ABLATION, GRADIENTS])],
    ),
    *(
        Drawing(
            f"{kind}-{number}",
            f"on_{kind}",
            {"method": method},
            f"{'Words' if kind == 'words' else 'Pictures'}, by {method}",
            draw,
            told.format(method),
            COLOURS,
            "other methods",
        )
        for kind, draw, told in (("words", on_words, WORDS), ("pictures", on_pictures, PICTURES))
        for number, method in enumerate((ABLATION, GRADIENTS), start=1)
    ),
]
