"""Figures of the vocabulary-group lens: languages, colours or other groups of words by state."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all, first_condition

LEAST = 1e-4  # nats; below lies the output itself


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Groups over the whole task and by subset, English against the target, the distance from the output."""
    return draw_all(FIGURES, tables)


def by_group(y_title: str):
    """A line per group, a panel per condition."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure:
        return lines(rows, "state", by="group", panel="condition", y_title=y_title)

    return draw


def by_word(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A line for each of both languages."""
    return lines(first_condition(rows), "state", by="word", y_title="probability")


def shares(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """A panel for each list; of more lists than a page has room for no figure."""
    rows = first_condition(rows).assign(line="likely words of the list")
    if rows["group"].nunique() > 6:
        return None
    return lines(rows, "state", by="line", panel="group", y_title="share of the counted words", markers=False)


def by_subset(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = first_condition(rows)
    if not 2 <= rows["subset"].nunique() <= 4:
        return None
    return lines(rows, "state", by="group", panel="subset", y_title="summed probability")


def kl(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows[rows["value"] > LEAST]
    if rows.empty:
        return None
    return lines(rows, "state", by="condition", log_y=True, y_title="KL to the output (nats)")


FIGURES = [
    Drawing(
        "groups",
        "groups",
        {"subset": "all"},
        "Summed probability of each group of words, state by state",
        by_group("summed probability"),
        "The lens probability of a group's tokens, summed, at the last position; mean over prompts. Dotted: as many "
        "random words of similar frequency, since a larger group sums more.",
        "A height that is the same for every prompt (a band of no width) is the lens's own bias towards a word, not "
        "what the prompt is about.",
        interval="Bands",
        control="Dotted in the same colour",
    ),
    Drawing(
        "concepts",
        "concepts",
        {},
        "The answer's concept in English and in the answer's language",
        by_word,
        "Probability of the word that names the answer's concept, in English and in the language that is asked for, by "
        "its first token; dotted: the mean of other concepts' words in the same language, none of which stands in the "
        "prompt.",
        "English above its dotted line before the answer's language is above its own: the answer is there in English "
        "first. A whole language that is likely lifts both lines.",
        interval="Bands",
        control="Dotted in the same colour",
        claims=("the concept in English",),
    ),
    Drawing(
        "shares",
        "shares",
        {},
        "Which language likely words are of",
        shares,
        "Of the likeliest words of each state those on some list are counted over all prompts: the share of each.",
        "Above its dotted lines: more than the list's length and its words' frequency give. Few likely words are on "
        "any list: one little word that is likely after every prompt, the lens's own bias, makes a share of 1.",
        interval="Bands",
        control="Dotted",
        claims=("English among likely words",),
    ),
    Drawing(
        "latent",
        "latent",
        {},
        "English against the target language",
        by_group("probability above random words"),
        "Probability of English words, and of the words of each prompt's target language, less that of as many random "
        "words.",
        "One frequent word can be most of a language's sum, so this is no test of a latent language: the figure of "
        "the answer's concept is one.",
        "whole lists",
        interval="Bands",
    ),
    Drawing(
        "subsets",
        "groups",
        {"control": ""},
        "Summed probability by kind of prompt",
        by_subset,
        "Summed probability of each group, a panel for each kind of prompt.",
        "Controls are in the table.",
        "by kind",
        "Bands",
        select=lambda rows: rows[rows["subset"] != "all"],
    ),
    Drawing(
        "kl",
        "kl",
        {"subset": "all"},
        "Distance of the lens from the output, state by state",
        kl,
        "KL of the model's output to what the lens reads at the last position; logarithmic.",
        "Lower is nearer.",
        "checks",
        "Bands",
    ),
]
