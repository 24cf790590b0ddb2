"""Figures of head divergence: which heads read the image, and what that says about words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines, shaded_words
from .drawing import Drawing, Tables, draw_all
from .views import DIFFERENCE, MEASURED, views

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Maps first, then the words, then how stable the ranking is."""
    return draw_all(FIGURES, tables)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """A view for each way and control, on one scale; grey: not told from a control."""
    control = rows["control"] != ""
    shown = [_of_way(rows[control | (rows["way"] == way)], way) for way in rows.loc[~control, "way"].unique()]
    if not shown:
        return None
    joined = pd.concat(shown, ignore_index=True).drop_duplicates(["condition", "view", "layer", "head"])
    return head_map(joined, panel="condition", view="view")


def _of_way(rows: pd.DataFrame, way: str) -> pd.DataFrame:
    """One way of taking the image away beside the controls; the differences are a figure of their own, with p."""
    shown = views(rows)
    return shown[shown["view"] != DIFFERENCE].assign(view=lambda r: r["view"].replace({MEASURED: f"image {way}"}))


def excess(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    """Divergence minus its control's; heads that do not differ from it are grey. It opens on the control that the
    finding names which points here.
    """
    found = tables.get("findings", pd.DataFrame({"figure": [], "text": []}))
    said = " ".join(found.loc[found["figure"] == "excess", "text"].astype(str))
    rows = rows.sort_values("control", key=lambda c: ~c.isin([n for n in c.unique() if str(n) in said]), kind="stable")
    shown = rows.assign(view="image " + rows["way"] + " − " + rows["control"], unclear=~(rows["p_family"] <= 0.05))
    return head_map(shown, panel="condition", view="view", signed=True)


def layers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(_beside(rows), "layer", by="series", panel="condition", y_title="mean over heads")


def ecdf(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Share of items up to a T-VHD, in steps at the bins' upper ends."""
    rows = rows.sort_values("right", kind="stable")
    rows = rows.assign(value=rows.groupby(["condition", "kind"])["value"].cumsum(), unit="share up to here")
    first = rows.groupby(["condition", "kind"], sort=False).head(1)
    start = first.assign(value=0.0, right=first["left"])
    bare = pd.concat([start, rows], ignore_index=True).drop(columns=["lower", "upper"], errors="ignore")
    bare = bare.drop_duplicates(["condition", "kind", "right"], keep="last")
    figure = lines(bare, "right", by="kind", panel="condition", y_title="share of them", markers=False, steps=True)
    return figure.update_xaxes(title_text="T-VHD").update_yaxes(range=[0, 1.02])


def auroc(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = dots(_beside(rows), "level", by="series", panel="condition")
    return figure.add_vline(0.5, line_dash="dash", line_color="#6b6b6b", line_width=1.2)


def stability(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(_beside(rows).assign(unit="share, or rank correlation"), "measure", by="series")


def margins(rows: pd.DataFrame, _: Tables) -> go.Figure:
    named = "image " + rows["way"] + " − " + rows["control"]
    return dots(rows.drop(columns="control").assign(series=named, unit="difference"), "measure", by="series", zero=True)


def captions(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return shaded_words(rows, unit="T-VHD", marked="hallucinated")


def first_way(rows: pd.DataFrame, *, level: str = "") -> pd.DataFrame:
    """The rows of the way that the table begins with, and of one level."""
    rows = rows[rows["way"] == rows["way"].iloc[0]]
    return rows[rows["level"] == level] if level else rows


def _beside(rows: pd.DataFrame) -> pd.DataFrame:
    """`series`: the way that the image was taken away; a control lies beside the first of them."""
    measured = rows.loc[rows["control"] == "", "way"]
    first = measured.iloc[0] if len(measured) else ""
    return rows.assign(series="image " + rows["way"].where(rows["control"] == "", first))


CONTROLS = "the buttons show the same when another image is put in its place, and when another question is asked"
GREY = "Grey: the interval touches that of one of the two controls, which is what any change of the prompt does."


def _map(measure: str, title: str, seen: str, theme: str) -> Drawing:
    where = {"measure": measure}
    return Drawing(f"heads-{measure}", "heads", where, title, heads, f"{seen}; {CONTROLS}.", "", theme, grey=GREY)


def _words(name: str, level: str, of: str, what: str, theme: str) -> Drawing:
    return Drawing(
        *(name, "words", {"level": level}, f"T-VHD of {of}", ecdf),
        f"Share of {what} up to each T-VHD, the summed divergence of the heads that react most to the image.",
        "Where the curve of the hallucinated ones runs above and to the left, they depend less on the image.",
        theme,
        select=partial(first_way, level=level),
    )


FIGURES = [
    Drawing(
        "excess",
        "excess",
        {"measure": "relative"},
        "Which heads react more to the image than to any other change",
        excess,
        "Relative divergence (distance between a head's output with and without the image, over the mean of their "
        "norms) minus that under the control named on the button, paired by example.",
        "Red: the image moves this head more.",
        grey="Grey: chance alone shows as much among all heads of the map (p > 0.05, sign flips of whole groups).",
    ),
    _map(
        "relative",
        "How far each head moves without the image (relative)",
        "Distance between a head's output with the image and without it, over the mean of the two norms, at the "
        "positions that predict the answer's tokens",
        "main",
    ),
    Drawing(
        "auroc",
        "auroc",
        {},
        "Does the divergence (T-VHD) tell hallucinated words from correct ones?",
        auroc,
        "How often a correct object word (a sentence or caption without a hallucination) has a larger T-VHD than a "
        "hallucinated one. Hallucinations come late in captions, so words are also compared within strata of their "
        "place alone.",
        "Dashed: chance. Right of its grey ticks the image tells them apart better than another change of the prompt.",
        interval="Whiskers",
        control="Grey ticks",
        claims=("hallucinated words",),
    ),
    Drawing(
        "captions",
        "captions",
        {},
        "What the model said, shaded by how much each word depends on the image",
        captions,
        "Some captions, one token a cell, by T-VHD. Illustrations.",
        "Dark tokens hardly depend on the image. Hallucinated object words stand in brackets and are followed by ✗.",
        select=first_way,
    ),
    _words("words", "word", "correct and hallucinated words", "the object words of each kind", "words"),
    _words(
        "sentences-histogram",
        "sentence",
        "sentences with and without a hallucination",
        "the sentences that name an object",
        "words",
    ),
    _words(
        "captions-histogram",
        "caption",
        "captions with and without a hallucination",
        "the captions of each kind",
        "words",
    ),
    Drawing(
        "stability",
        "stability",
        {},
        "Is the ranking of the heads one of the model?",
        stability,
        "Rank correlation over heads between an example and all others, and between every other token of an answer and "
        "the tokens between; and the share of the summed divergence that the leading tenth of the heads holds, and by "
        "how much it diverges more than under another question, chosen on one half of the groups and measured on the "
        "other.",
        "A dot on its grey ticks says nothing of the image: any change of the prompt ranks heads as well.",
        "checks",
        "Whiskers",
        "Grey ticks",
        claims=("few heads", "one ranking", "the image, not the prompt"),
    ),
    Drawing(
        "margins",
        "margins",
        {},
        "Is it the image, or any change of the prompt?",
        margins,
        "These numbers (and the AUROC of T-VHD) without the image minus the same under the control, paired by example.",
        "At 0 the control does as well.",
        "checks",
        "Whiskers",
    ),
    Drawing(
        "layers",
        "layers",
        {"measure": "l2"},
        "Divergence by layer",
        layers,
        "The mean over the heads of each layer, for every way of taking the image away and for the controls.",
        "A layer above its dotted lines reacts to the image.",
        "by layer",
        "Bands",
        "Dotted",
    ),
    _map(
        "l2",
        "How far each head moves without the image (VHD)",
        "Vision-aware head divergence: L2 distance between a head's output with the image and without it, mean over "
        "tokens and examples",
        "variants",
    ),
    _map(
        "pooled",
        "Relative divergence, pooled",
        "The sum of the distances over the sum of the norms: what tokens with small outputs hardly enter",
        "variants",
    ),
    _map(
        "cosine",
        "Divergence in direction",
        "One minus the cosine of the two outputs: blind to their norms",
        "variants",
    ),
]
