"""Figures of recall: which heads bring the subject, what an MLP makes of it, and what the last layer writes."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .circuits import label
from .drawing import Drawing, Tables, draw_all, first_condition
from .signs import helps
from .views import unclear

PATH, LOOKED = "path to the output", "attention on the subject"
ZERO = [(0.0, "", "")]


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The regression, where its parts point, the last layer, the movers; in folds the rest."""
    return draw_all(FIGURES, tables)


def copied(rows: pd.DataFrame, _: Tables) -> go.Figure:
    named = rows.assign(heads=rows["control"].where(rows["control"] != "", "the movers"), control="")
    return dots(named, "heads", panel="measure", zero=True)


def redirection(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A panel for the MLP's output and for each of its two parts."""
    return dots(rows, "word", panel="part", zero=True)


def direct(rows: pd.DataFrame, _: Tables) -> go.Figure:
    title = "logits above the vocabulary's mean"
    return lines(rows, "layer", by="part", y_title=title, reference=ZERO)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(unclear(helps(rows)), signed=True, unit="logits")


def weights(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(head_name=label(rows)), "head_name", zero=True, x_title="w")


def looks(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, unit="attention")


def last(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(head_name=label(rows)), "head_name", zero=True, x_title="logits above the mean")


def task(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(rows.assign(scale=rows["unit"].replace({"share": "share of prompts"})), "measure", panel="scale")


FIGURES = [
    Drawing(
        "copied",
        "copied",
        {},
        "How much of the MLP's output the movers tell",
        copied,
        "Out-of-sample R² of: the MLP's output at the last position ≈ Σ w · (output of each mover) + b. w, a number "
        "for each mover, and b, a vector for each relation and template, come from one half of the groups, R² from the "
        "other. R² counts what differs from the mean of prompts of its kind; beside it stand controls, fitted anew: "
        "random heads of the same layers, and the movers' outputs at prompts about other subjects. With b counted it "
        "is of the whole output, and the control is that mean alone.",
        "1: the MLP's output is a weighted sum of theirs. 0: they tell nothing that the mean of prompts of that kind "
        "does not tell; below 0: worse than that mean. With b counted a high R² says little by itself: compare it with "
        "the mean's.",
        interval="Whiskers",
        select=first_condition,
        claims=("the MLP follows the movers",),
    ),
    Drawing(
        "redirection",
        "redirection",
        {},
        "Which words the parts of the MLP's output raise",
        redirection,
        "Logits, against the mean over the vocabulary, that the MLP's output, its movers' part Σ w · o and its vector "
        "b add to the answer, to the twin's answer (same relation, another subject), to random words of nearby ids, "
        "and, where the task has several relations, to the answers of the others.",
        "b is the same for all subjects: where it stands right of 0 on both answers and not on the other words, it "
        "points to the kind of word that is asked for.",
        interval="Whiskers",
        select=first_condition,
        claims=("b points to the answer",),
    ),
    Drawing(
        "direct",
        "direct",
        {},
        "What each layer writes for the answer",
        direct,
        "Direct logit attribution: what a layer's MLP, and its heads together, add at the last position to the "
        "answer's logit, against the mean over the vocabulary, the final norm's scale held as it is.",
        "The last layer on the right: below 0 it works against the answer; beside the dotted line, more than against "
        "another answer.",
        interval="Bands",
        control="Dotted",
        select=first_condition,
        claims=("the last MLP doubts", "the last heads doubt"),
    ),
    Drawing(
        "heads",
        "heads",
        {"measure": PATH},
        "Which heads the answer needs",
        heads,
        "What each head's path to the output is worth to the answer's lead over the twin's answer: its output is taken "
        "from the twin, all other heads stay. On the groups that chose none of the heads; the movers are those of "
        "column chosen.",
        "Above 0 (red): the answer needs what the head brings; below 0 (blue): it works against it.",
        select=first_condition,
        grey="Grey: chance alone shows as much among all heads of the map (p > 0.05).",
        claims=("movers read the subject",),
    ),
    Drawing(
        "looks",
        "heads",
        {"measure": LOOKED},
        "Which heads look at the subject",
        looks,
        "Attention of the last position on the subject's tokens, on the same prompts.",
        "Far from 0 in both maps: the head looks at the subject and brings what the answer needs.",
        theme="movers",
        select=first_condition,
        claims=("movers read the subject",),
    ),
    Drawing(
        "weights",
        "weights",
        {},
        "What the MLP makes of each mover's output",
        weights,
        "w of each mover in the regression, from the half of the groups that it is fitted on.",
        "Above 0: the MLP writes more of what the head wrote; below 0: it takes it away.",
        theme="movers",
        interval="Whiskers",
        select=first_condition,
    ),
    Drawing(
        "last",
        "last",
        {},
        "What each head of the last layer writes for the answer",
        last,
        "Direct logit attribution of every head of the last layer on the answer.",
        "Left of 0 and of its grey tick: the head works against this answer more than against another one.",
        theme="last layer",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
        claims=("the last heads doubt",),
    ),
    Drawing(
        "task",
        "task",
        {},
        "How well the model knows the facts",
        task,
        "Accuracy: the answer has a higher logit than the twin's. Top-1: it is the likeliest of all words. Clean − "
        "corrupt: by how much the answer's lead differs between a prompt and its twin.",
        "Where the accuracy's interval holds the grey tick (guessing), nothing on this page explains a fact that is "
        "known.",
        theme="the task",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
]
