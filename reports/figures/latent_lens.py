"""Figures of contextual words: how often each lens names what a token shows, words on pictures, layers, hubs."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, heat_map, lines, word_pictures
from .drawing import Drawing, Tables, draw_all, first_condition

LATENT, VOCABULARY, SHUFFLED = "contextual words", "vocabulary lens", "shuffled image tokens"
STATE_0 = (
    "State 0 is what the projector puts in. That of the subject `scenes` was taught to put in the embeddings of "
    "colour, shape, a place and shape again: with it .75 is all that can be named, at state 0 by construction."
)


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Shares by lens, words over the first pictures, layers; more controls, hubs and distances in folds."""
    drawn = draw_all(FIGURES, tables)
    first = {name: figure for name, figure in drawn.items() if name == "named"}
    return {**first, **_words(tables), **drawn}


def shares(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A line for each lens."""
    figure = lines(first_condition(rows), "state", by="lens", y_title="share of the objects' tokens")
    return figure.update_yaxes(range=[-0.02, 1.02])


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """States from left to right, the layers of the nearest words upwards; random vectors below. Both in steps."""
    rows = first_condition(rows).sort_values(["control", "state", "word_layer"])
    shown = rows.assign(of=rows["control"].replace("", "image tokens"), control="")
    shown = shown.assign(token_state=shown["state"].astype(str), word_layer="layer " + shown["word_layer"].astype(str))
    figure = heat_map(shown, "token_state", "word_layer", panel="of", scale=(0, 1), unit="share of tokens")
    return figure.update_xaxes(type="category").update_yaxes(title_text="nearest word of")


def hubs(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = lines(first_condition(rows), "state", by="lens", y_title="share of image tokens")
    return figure.update_yaxes(range=[-0.02, 1.02])


def nearness(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = first_condition(rows)
    rows = rows.assign(line=rows["measure"].map({"cosine": "nearest word", "margin": "before the next word"}))
    return lines(rows, "state", by="line", y_title="cosine").update_yaxes(rangemode="tozero")


def some_controls(rows: pd.DataFrame) -> pd.DataFrame:
    """Every lens, with one control of the two that are compared."""
    control = rows["control"].fillna("")
    return rows[(control == "") | ((control == SHUFFLED) & rows["lens"].isin((LATENT, VOCABULARY)))]


def _words(tables: Tables) -> dict[str, go.Figure]:
    """The nearest words over all pictures whose patches have a place."""
    pictures, words = (tables.get(name, pd.DataFrame()) for name in ("pictures", "words"))
    if pictures.empty or words.empty:
        return {}
    rows = words[words["lens"] == LATENT].dropna(subset=["row", "column", "value"])
    shown = pictures[pictures["example"].isin(rows["example"])].drop_duplicates("example")
    rows = rows[rows["example"].isin(shown["example"])]
    if rows.empty:
        return {}
    keys = ["example", "state", "row", "column", "rank"]
    rows = rows.astype({"row": int, "column": int}).drop_duplicates(keys)
    parts = {"seen": SEEN, "read": READ, "sample": f"n\u00a0=\u00a0{len(shown)}, chosen by place: an illustration."}
    title, caption = "The word in context that each patch of a picture lies nearest to", " ".join(parts.values())
    figure = word_pictures(rows, shown, unit="cosine", middle=True)
    return {"words": captioned(figure, title, caption, "words", {"lens": LATENT}, theme="main", **parts)}


SEEN = (
    "The nearest word of the bank for every image token, over the picture; buttons choose the picture, the slider the "
    "state. Under the mouse: the next words."
)
READ = "Orange: the token's state points where the word's state in its sentence does (cosine 1: the same direction)."
FIGURES = [
    Drawing(
        "named",
        "named",
        {},
        "Which lens names the object under an image token?",
        shares,
        "Share of the objects' image tokens whose word is the object's colour or shape, state by state: the nearest "
        "word in context, the same with the mean taken off, the nearest input embedding, and the vocabulary lens "
        "(first of all words, or of the same words).",
        f"The highest line tells most of what is there. {STATE_0}",
        interval="Bands",
        control="Dotted in the same colour",
        select=some_controls,
        claims=("context names more",),
    ),
    Drawing(
        "controls",
        "named",
        {"lens": LATENT},
        "Is it the object, or would any token do?",
        shares,
        "The same share for the nearest words in context.",
        "A solid line above all dotted ones: these tokens point to the words of this object. Random vectors mix the "
        "picture's own tokens and so keep some of its words.",
        "controls",
        "Bands",
        "Dotted",
        claims=("most tokens named",),
    ),
    Drawing(
        "layers",
        "layers",
        {},
        "Which layer's words are the nearest?",
        layers,
        "Share of all image tokens (state from left to right) whose nearest word is taken from each layer of the bank "
        "(upwards), and below the same of random vectors with the mean and covariance of the picture's tokens.",
        "Bright on the diagonal: a token is nearest to words of its own depth. Bright above it: to words of later "
        "layers. Intervals are in the table.",
        claims=("inputs at middle layers",),
    ),
    Drawing(
        "hubs",
        "hubs",
        {},
        "How often the commonest word is said",
        hubs,
        "Share of all image tokens that get the one word that is commonest at that state in all pictures.",
        "1: every token gets the same word, which then tells of none. Background patches alike may share one rightly.",
        "checks",
        "Bands",
        "Dotted",
    ),
    Drawing(
        "nearness",
        "nearness",
        {},
        "How near the nearest word is",
        nearness,
        "Cosine to the nearest word in context, and by how much it is nearer than the next word, mean over all image "
        "tokens.",
        "A state's few large dimensions lift all cosines: the distance to the next word tells how much is told apart.",
        "checks",
        "Bands",
    ),
]
