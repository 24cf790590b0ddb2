"""Figures of head divergence: which heads read the image, and what that says about words."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, head_map, lines, shaded_words
from .drawing import Drawing, Tables, draw_all

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Maps first, then the words, then how stable the ranking is."""
    return draw_all(FIGURES, tables)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each way and control, on one scale."""
    return head_map(_panels(rows), panel="panel")


def excess(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Divergence minus its control's; only heads that differ from it are coloured."""
    rows = rows.assign(panel="image " + rows["way"] + " − " + rows["control"])
    rows = rows.assign(value=rows["value"].where(rows["p_family"] <= 0.05))
    return head_map(rows, panel="panel", signed=True)


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(_panels(rows).drop(columns="control"), "layer", by="panel", y_title="mean over heads")


def histogram(rows: pd.DataFrame, _: Tables) -> go.Figure:
    width = float((rows["right"] - rows["left"]).min())
    digits = max(0, 1 - math.floor(math.log10(width))) if width > 0 else 6
    rows = rows.assign(range=[f"{a:.{digits}f}" for a in rows["left"]])
    return bars(rows, "range", by="kind", vertical=True).update_xaxes(title_text="T-VHD, lower end of the bin")


def auroc(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = _panels(rows)
    figure = bars(rows, "level", by="panel")
    return figure.add_vline(0.5, line_dash="dash", line_color="#6b6b6b").update_xaxes(range=[0, 1])


def stability(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return bars(_panels(rows).assign(unit="share, or rank correlation"), "measure", by="panel")


def margins(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(panel="image " + rows["way"] + " − " + rows["control"], unit="difference").drop(
        columns="control"
    )
    return bars(rows, "measure", by="panel")


def captions(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return shaded_words(rows, unit="T-VHD", marked="hallucinated")


def first_way(rows: pd.DataFrame, *, level: str = "") -> pd.DataFrame:
    """The rows of the way that the table begins with, and of one level."""
    rows = rows[rows["way"] == rows["way"].iloc[0]]
    return rows[rows["level"] == level] if level else rows


def _panels(rows: pd.DataFrame) -> pd.DataFrame:
    """The image's way, or the control, as the name of a panel or series."""
    image = "image " + rows["way"]
    controlled = rows["way"].eq("question changed")
    swapped = rows["way"].eq("swapped")
    names = image.mask(swapped, "control: another image").mask(controlled, "control: another question")
    return rows.assign(panel=names)


def _map(measure: str, title: str, said: str) -> Drawing:
    where = {"measure": measure}
    return Drawing(f"heads-{measure}", "heads", where, title, said, heads)


FIGURES = [
    _map(
        "l2",
        "Head divergence (VHD)",
        "L2 distance between a head's output with the image and without it, at the positions that predict the answer's "
        "tokens, mean over tokens and examples. Below, the same distance when the image is another one, and when the "
        "question is another one: what any change of the prompt does. One scale; the table has the intervals.",
    ),
    _map(
        "relative",
        "Relative divergence",
        "The same distance over the mean of the two norms, so that heads with small outputs can be compared: the mean "
        "over tokens and examples of each one's ratio.",
    ),
    _map(
        "pooled",
        "Relative divergence, pooled",
        "The sum of the distances over the sum of the norms: what tokens with small outputs hardly enter.",
    ),
    _map("cosine", "Divergence in direction", "One minus the cosine of the two outputs: blind to their norms."),
    Drawing(
        "excess",
        "excess",
        {"measure": "relative"},
        "Heads that react more to the image than to another question",
        "Relative divergence without the image minus that under the control, paired by example. Grey: heads whose "
        "difference could be chance (p > 0.05, sign flips of whole groups, the largest of all heads of the map).",
        excess,
    ),
    Drawing(
        "layers",
        "layers",
        {"measure": "l2"},
        "Divergence by layer",
        "The mean over the heads of each layer, for every way of taking the image away and for the controls.",
        layers,
        "Bands",
    ),
    Drawing(
        "auroc",
        "auroc",
        {},
        "Does T-VHD tell hallucinated words from correct ones?",
        "How often a correct object word (a sentence or caption without a hallucination) has a larger T-VHD than a "
        "hallucinated one. Hallucinations come late in captions, so words are also compared within strata of their "
        "place alone. Dashed: chance.",
        auroc,
        "Whiskers",
    ),
    Drawing(
        "words",
        "words",
        {"level": "word"},
        "T-VHD of correct and hallucinated words",
        "Share of the object words of each kind by T-VHD of their first token.",
        histogram,
        "Whiskers",
        select=partial(first_way, level="word"),
    ),
    Drawing(
        "sentences-histogram",
        "words",
        {"level": "sentence"},
        "T-VHD of sentences with and without a hallucination",
        "Share of the sentences of each kind, of those that name an object, by the mean T-VHD of their tokens.",
        histogram,
        "Whiskers",
        select=partial(first_way, level="sentence"),
    ),
    Drawing(
        "captions-histogram",
        "words",
        {"level": "caption"},
        "T-VHD of captions with and without a hallucination",
        "Share of the captions of each kind by the mean T-VHD of their tokens.",
        histogram,
        "Whiskers",
        select=partial(first_way, level="caption"),
    ),
    Drawing(
        "captions",
        "captions",
        {},
        "Captions, shaded by T-VHD",
        "What the model said of some images, one token a cell; dark tokens hardly depend on the image. Hallucinated "
        "object words stand in brackets and are followed by ✗.",
        captions,
        select=first_way,
    ),
    Drawing(
        "stability",
        "stability",
        {},
        "Is the ranking of the heads one of the model?",
        "Rank correlation over heads between an example and all others, and between every other token of an answer and "
        "the tokens between; and the share of the summed divergence that the leading tenth of the heads holds, and by "
        "how much it diverges more than under another question, chosen on one half of the groups and measured on the "
        "other.",
        stability,
        "Whiskers",
    ),
    Drawing(
        "margins",
        "margins",
        {},
        "Is it the image, or any change of the prompt?",
        "The numbers above (and the AUROC of T-VHD) without the image minus the same numbers of the divergence under "
        "the control, paired by example. At 0 the control does as well.",
        margins,
        "Whiskers",
    ),
]
