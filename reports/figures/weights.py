"""Figures of weights: which layers read each other, what heads are beside chance, spectra, rotary pairs, keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..charts import head_map, heat_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition

BEFORE = "token before over other distances"
EDGE, SIGNAL = "values above the noise edge", "signal over noise, over permuted"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Composition between layers, heads against permuted weights, spectra of matrices, rotary pairs; keys in a fold."""
    return draw_all(FIGURES, tables)


def between(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Sender's layer in rows, reader's in columns; what reads, and permuted weights, by buttons."""
    named = rows.assign(view=rows["reads"].where(rows["control"] == "", rows["reads"] + ", permuted"))
    order = named.sort_values("control", kind="stable").rename(columns={"sender_layer": "written by layer"})
    return heat_map(order, "layer", "written by layer", view="view", unit="composition score")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Each head, a measure by button."""
    return head_map(rows, view="measure", signed=True, unit="measured − permuted")


def spectra(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "layer", by="matrix", y_title=str(rows["unit"].iloc[0]), markers=False)


def pairs(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return heat_map(first_condition(rows), "layer", "pair", unit="share of the use")


def by_key_head(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    named = shown.assign(
        view=shown["measure"].where(shown["control"] == "", shown["measure"] + ", " + shown["control"])
    )
    return _by_key_head(named)


def distances(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Each head, as measured and with the keys' pairs permuted by buttons."""
    return head_map(_by_control(rows), view="view", signed=True, unit="logits")


def used(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return _by_key_head(_by_control(rows), unit="share of the use")


def _by_control(rows: pd.DataFrame) -> pd.DataFrame:
    """What is measured, then the control, as views."""
    shown = first_condition(rows)
    return shown.assign(view=shown["control"].where(shown["control"] != "", "measured"))


def _by_key_head(rows: pd.DataFrame, **options: Any) -> go.Figure:
    return heat_map(rows.rename(columns={"key_head": "key head"}), "layer", "key head", view="view", **options)


def _measures(*ends: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The rows of measures whose names end so."""
    return lambda rows: rows[rows["measure"].str.endswith(ends)]


SPECTRUM = "One line a weight matrix. Dotted: the same matrices with their entries permuted, which is what noise gives."
FIGURES = [
    Drawing(
        "composition",
        "between",
        {},
        "Which layers' heads read single directions that earlier heads write",
        between,
        "The highest score of any head of a layer (columns) with any single direction that a head of an earlier layer "
        "(rows) writes, read by its queries, keys or values. 1: it reads nothing else. Buttons: what reads, and the "
        "same of weights with permuted entries.",
        "The permuted map is one draw: by chance alone half of such maps would have a cell brighter than all of it. "
        "Only cells far above it are more than chance.",
        claims=("components stand out",),
    ),
    Drawing(
        "heads",
        "beside_chance",
        {},
        "Which heads copy what they read, or look for what is like the token itself",
        heads,
        "Positive share of the eigenvalues of W_V W_O (OV: what is written of what is read) or of W_Q W_Kᵀ (QK: what "
        "is looked for), minus that of the same weights with permuted entries.",
        "Red: it copies, or looks for its like; blue: it writes the opposite, or looks for what is unlike.",
        select=_measures("eigenvalues"),
    ),
    Drawing(
        "edge",
        "matrices",
        {"measure": EDGE},
        "Directions of each matrix that noise would not have",
        spectra,
        f"Singular values above the largest that random entries of this size would give. {SPECTRUM}",
        "More: the matrix has learned more directions.",
        control="Dotted",
    ),
    Drawing(
        "pairs",
        "pairs",
        {},
        "Which rotary frequencies queries and keys use",
        pairs,
        "Share of a rotary pair, fast ones at 0, in all that a layer's queries and keys use, mean over key heads and "
        "texts.",
        "Rows at the top: slow pairs, which hardly tell distances apart.",
        claims=("few rotary pairs",),
    ),
    Drawing(
        "symmetric",
        "beside_chance",
        {},
        "How symmetric the scores of a head are",
        heads,
        "Symmetric and diagonal share of W_Q W_Kᵀ by head, minus that of the same weights with permuted entries.",
        "Red: what it looks for resembles what it is found by.",
        theme="more about heads",
        select=_measures("metric share", "diagonal share"),
        claims=("symmetric scores",),
    ),
    Drawing(
        "ranks",
        "beside_chance",
        {},
        "How many directions a head reads and writes",
        heads,
        "Ranks of W_V W_O and W_Q W_Kᵀ by head, minus those of the same weights with permuted entries.",
        "Blue: fewer directions count than by chance.",
        theme="more about heads",
        select=_measures("rank", "ratio"),
    ),
    Drawing(
        "stable_rank",
        "matrices",
        {"measure": "stable rank"},
        "Stable rank of each matrix",
        spectra,
        f"Σ of the squared singular values over the largest. {SPECTRUM}",
        theme="more spectra",
        control="Dotted",
    ),
    Drawing(
        "signal",
        "matrices",
        {"measure": SIGNAL},
        "Signal over noise of each matrix, over that of permuted entries",
        spectra,
        "Spectrum's ratio of singular values above and below its threshold, over the same of the matrix with its "
        "entries permuted. 1: no more than noise of this shape and size.",
        theme="more spectra",
    ),
    Drawing(
        "distances",
        "distances",
        {"measure": BEFORE},
        "Which heads look one token back by position alone",
        distances,
        "The mean query's score with the mean key one token back minus its mean over the other distances up to 15, as "
        "the rotation turns them: words do not enter it. By the button with the keys' rotary pairs in another order.",
        "Red: position alone favours the token before; words may add more than that.",
        theme="keys",
    ),
    Drawing(
        "keys",
        "keys",
        {},
        "How keys lie to each other",
        by_key_head,
        "By layer and key head. Interference: mean squared cosine of different keys of a text over that of random "
        "directions. Cannot be ranked first: share of keys inside the convex hull of the others, in the layers that "
        "were asked; by its button also of Gaussian keys.",
        theme="keys",
        claims=("keys interfere", "keys can be chosen"),
    ),
    Drawing(
        "used",
        "frequencies",
        {},
        "How few rotary pairs a key head uses",
        used,
        "Share of the use that the most used quarter of the pairs holds; by the button with the keys' pairs in another "
        "order.",
        theme="keys",
    ),
]
