"""Figures of the image-token lens: agreement with the object under a patch, entropy, words on the image grid."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, lines, word_pictures
from .drawing import Drawing, Tables, draw_all, first_condition

OBJECT = "patches of the asked object"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Agreement by state, the words over the first pictures, then the rest."""
    drawn = draw_all(FIGURES, tables)
    return {**{k: v for k, v in drawn.items() if k == KEY}, **_words(tables), **drawn}


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The asked object's patches, and what controls them."""
    figure = lines(rows.assign(line=OBJECT), "state", by="line", panel="condition", y_title="share of patches")
    return figure.update_yaxes(rangemode="tozero")


def by_kind(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = first_condition(rows)
    if not 2 <= rows["subset"].nunique() <= 4:
        return None
    figure = lines(rows.assign(line=OBJECT), "state", by="line", panel="subset", y_title="share of patches")
    return figure.update_yaxes(rangemode="tozero")


def entropy(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "state", by="place", panel="condition", y_title="entropy (nats)")


def _words(tables: Tables) -> dict[str, go.Figure]:
    """The words over all pictures whose patches have a place; where none has one, the table `unmapped` says why."""
    pictures, grid = (tables.get(name, pd.DataFrame()) for name in ("pictures", "grid"))
    if pictures.empty or grid.empty:
        return {}
    placed = grid.dropna(subset=["row", "column"])
    shown = pictures[pictures["example"].isin(placed["example"])].drop_duplicates("example")
    rows = placed[placed["example"].isin(shown["example"])]
    if shown.empty or rows["value"].isna().all():
        return {}
    keys = ["example", "state", "row", "column", "rank"]
    rows = rows.astype({"row": int, "column": int}).drop_duplicates(keys)
    parts = {"seen": SEEN, "read": READ, "sample": f"n\u00a0=\u00a0{len(shown)}, chosen by place: an illustration."}
    where = {"example": shown["example"].iloc[0]} if len(shown) == 1 else {}
    figure = word_pictures(rows, shown)
    title, caption = "What the lens reads at each patch of a picture", " ".join(parts.values())
    return {"grids": captioned(figure, title, caption, "grid", where, theme="main", **parts)}


SEEN = (
    "The word that the logit lens reads at every image token, over the picture (the first, where a prompt has several; "
    "the thumbnail beside tiles left out); buttons choose the picture, the slider the state. Under the mouse: the next "
    "words."
)
READ = (
    "Orange: the lens is sure of the word. State 0 is what the projector puts in, which a projector may have been "
    "trained to decode into words: there agreement holds by construction."
)
KEY = "agreement"
FIGURES = [
    Drawing(
        KEY,
        "agreement",
        {"measure": "agreement", "subset": "all"},
        "Do image tokens decode to the object under them?",
        agreement,
        "Share of the asked object's patches at which the answer is the most likely of the question's possible "
        "answers.",
        "A line above its dotted ones (other objects' patches, the background, chance) reads the object. State 0 is "
        "what the projector puts in.",
        interval="Bands",
        control="Dotted",
        claims=("patches name their object",),
    ),
    Drawing(
        "named",
        "agreement",
        {"measure": "named", "subset": "all"},
        "How often the answer is the first of all words",
        agreement,
        "Share of the asked object's patches at which the answer's token is the most likely of the whole vocabulary.",
        "1: the patch names its object.",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "agreement-kinds",
        "agreement",
        {"measure": "agreement"},
        "Agreement by kind of question",
        by_kind,
        "Share of the asked object's patches that name the answer, a panel for each kind of question.",
        "A line above its dotted ones reads the object.",
        "by kind",
        "Bands",
        "Dotted",
        select=lambda rows: rows[rows["subset"] != "all"],
    ),
    Drawing(
        "entropy",
        "entropy",
        {},
        "How sure the lens is at image tokens",
        entropy,
        "Entropy of the lens distribution, mean over the patches of a place and over examples.",
        "Low: sure of some word.",
        "checks",
        "Bands",
    ),
]
