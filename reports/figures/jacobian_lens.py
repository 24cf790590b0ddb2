"""Figures of the Jacobian lens: the answer's rank by state under each lens, the distance from the output, gradients."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all

LEAST = 1e-4  # nats; below lies the output itself
WRONG = "wrong answer"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """The answer's rank, gradients in words, the distance from the output; how often the output is named, in a fold."""
    return draw_all(FIGURES, tables)


def ranks(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The first at the top."""
    figure = lines(rows, "state", by="lens", panel="condition", log_y=True, y_title="median rank, 1 = first")
    return figure.update_yaxes(autorange="reversed")


def distance(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Without the output itself, which is at no distance."""
    rows = rows[rows["value"] > LEAST]
    if rows.empty:
        return None
    return lines(rows, "state", by="lens", panel="condition", log_y=True, y_title="KL to the output (nats)")


def top1(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "state", by="lens", panel="condition", y_title="share of prompts").update_yaxes(range=[0, 1.02])


def one_lens(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return ranks(rows.assign(lens="the answer"), _)


def answers(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the wrong answer, which has a figure of its own."""
    return rows[rows["control"] != WRONG]


WAY = "The Jacobian lens moves a state by the mean Jacobian to the last state before it is read."
FIGURES = [
    Drawing(
        "rank",
        "lenses",
        {"measure": "rank"},
        "How early the answer can be read",
        ranks,
        "Median rank of the answer among all words at the last position, read from each state; logarithmic, the first "
        f"at the top. {WAY}",
        "A line that is higher than the logit lens' reads the answer earlier; where it is no higher than the dotted "
        "line, any such map would do.",
        interval="Bands",
        control="Dotted",
        select=answers,
        claims=("reads the answer earlier",),
    ),
    Drawing(
        "gradient",
        "gradients",
        {"measure": "rank"},
        "What gradients say in words",
        one_lens,
        "Median rank of the answer when minus the gradient of its own loss is read as a state, at the last position; "
        "logarithmic, the first at the top.",
        "At the top the gradient names the answer: it points to the word that would lower the loss. "
        "At the last state it does so by construction.",
        interval="Bands",
        control="Dotted",
        claims=("gradients name the answer",),
    ),
    Drawing(
        "kl",
        "lenses",
        {"measure": "kl"},
        "How far each lens is from the model's output",
        distance,
        f"KL of the model's output to the lens, mean over prompts; logarithmic. {WAY}",
        "Lower is nearer. The Jacobian lens is not fitted to be near: it says where a state pushes, not how sure.",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "wrong",
        "lenses",
        {"measure": "rank", "lens": "Jacobian lens"},
        "The answer beside the wrong answer",
        one_lens,
        f"Median rank of the answer and of the wrong answer of the same prompt through the Jacobian lens. {WAY}",
        "Where the line leaves the dotted one, the lens tells the two apart.",
        theme="wrong answer",
        interval="Bands",
        control="Dotted",
        select=lambda rows: rows[rows["control"].isin(["", WRONG])],
    ),
    Drawing(
        "top1",
        "lenses",
        {"measure": "top1"},
        "How often each lens names the model's own next token",
        top1,
        f"Share of prompts whose most likely token through the lens is the model's. {WAY}",
        "1: in every prompt.",
        theme="the next token",
        interval="Bands",
        control="Dotted",
    ),
]
