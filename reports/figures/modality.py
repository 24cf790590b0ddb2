"""Figures of modality: where attention goes layer by layer, which heads look at the image, opinions, steps."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The image's share, lift, heads, opinions; all other groups, curves and steps in folds."""
    return draw_all(FIGURES, tables)


def shares(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for each group of queries, itself and its controls."""
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="query", y_title="share of attention", markers=False)


def lifts(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    named = shown.assign(measure=shown["measure"].str.removeprefix("lift, "))
    one = [(1.0, "uniform attention", "")]
    return lines(named, "layer", by="measure", panel="query", y_title="times uniform", reference=one, markers=False)


def groups(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", by="key", panel="query", y_title="share of attention", markers=False)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(views(first_condition(rows)), panel="measure", view="view", unit="share of attention")


def survivors(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(what="heads of largest ratio that remain")
    return dots(shown, "what", x_title="share of heads")


def opinions(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(opinion="a wrong opinion")
    zero = [(0.0, "", "")]
    return lines(shown, "layer", by="opinion", y_title="share of attention", reference=zero, markers=False)


def answers(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "opinion", panel="answer", x_title="share of answers")


def curves(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "measure", x_title="correlation", zero=True)


def steps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    unit = str(shown["unit"].iloc[0])
    return lines(shown.assign(line="measured"), "step", by="line", y_title=unit)


FIGURES = [
    Drawing(
        "shares",
        "shares",
        {"key": "image", "measure": "sink twin"},
        "How much of its attention goes to the image",
        shares,
        "Attention on the image, mean over heads, by the group of tokens that looks, without the first token and "
        "renormalised (the sink twin).",
        "Above the dotted lines of uniform attention, of neutral text and of as many random tokens of the text more "
        "goes to the image than its length alone would draw; as high as for another image, it is not this picture that "
        "draws it.",
        interval="Bands",
        control="Dotted",
        select=lambda rows: rows[rows["query"] != "image"],  # which sees little else
        claims=("the image early", "text over image, per key"),
    ),
    Drawing(
        "lift",
        "shares",
        {"key": "image", "control": ""},
        "The image's share over that of uniform attention",
        lifts,
        "The same divided by uniform attention on the tokens in view, with the first token and without it.",
        "Above 1 the image gets more than its length's share. Where the lines part, the first token does it.",
        "all groups",
        interval="Bands",
        select=lambda rows: rows[rows["measure"].str.startswith("lift")],
    ),
    Drawing(
        "heads",
        "heads",
        {},
        "Which heads look at the image from the last position",
        heads,
        "Attention of the last position on the image by head, as it is and without the first token.",
        "A head that is bright on both maps looks at the image; one that is bright on the first alone only does not "
        "attend to the first token.",
        select=lambda rows: rows[rows["unit"] == "share of attention"],
        claims=("visual heads",),
    ),
    Drawing(
        "opinions",
        "opinions",
        {},
        "What a user's opinion takes from the image",
        opinions,
        "Attention of the last position on the image with a sentence in front of the question, minus that without it.",
        "Below 0 the image gets less. Only what goes below the dotted lines (a right opinion, a neutral sentence) "
        "belongs to the opinion being wrong.",
        interval="Bands",
        control="Dotted",
        claims=("opinions take attention away",),
    ),
    Drawing(
        "survivors",
        "survivors",
        {},
        "Visual heads by ratio that remain without the first token",
        survivors,
        "Of the tenth of the heads with most attention on the image against all other, the share that is in the tenth "
        "of the sink twin as well.",
        "As far right as the grey tick: the ratio told heads that do not sink, not heads that see.",
        "heads",
        interval="Whiskers",
        control="Grey",
        claims=("visual heads",),
    ),
    Drawing(
        "answers",
        "opinion_answers",
        {},
        "Answers with an opinion in front of the question",
        answers,
        "Share of right answers, and of answers that are what the wrong opinion says.",
        "",
        "opinions",
        interval="Whiskers",
    ),
    Drawing(
        "groups",
        "shares",
        {"measure": "attention", "control": ""},
        "Where each group of tokens looks",
        groups,
        "Attention on each group of keys, mean over heads; the groups of keys sum to 1.",
        "",
        "all groups",
        interval="Bands",
    ),
    Drawing(
        "curves",
        "curves",
        {},
        "Text before the image against text behind it",
        curves,
        "Correlation over layers of the question's attention on the text before the image and on the text behind it.",
        "With the first token in it the text before is mostly the sink, and the correlation −1 by construction.",
        "around the image",
        interval="Whiskers",
        control="Grey",
        claims=("before against behind",),
    ),
    Drawing(
        "steps",
        "steps",
        {"measure": "lift"},
        "The image while the answer is written",
        steps,
        "Attention on the image of the position that predicts each token of the answer, over uniform attention there, "
        "mean over heads and the middle half of the layers.",
        "",
        "steps",
        interval="Bands",
        claims=("the image is forgotten",),
    ),
]
