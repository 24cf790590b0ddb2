"""Figures of the vocabulary-group lens: languages, colours or other groups of words by state."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import lines
from .drawing import Drawing, Tables, draw_all


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Groups over the whole task and by subset, English against the target, the distance from the output."""
    return draw_all(FIGURES, tables)


def by_group(rows: pd.DataFrame, _: Tables) -> go.Figure:
    panel = "condition" if rows["condition"].nunique() > 1 else None
    return lines(rows, "state", by="group", panel=panel, y_title="summed probability")


def by_subset(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows[rows["condition"] == rows["condition"].iloc[0]]
    if not 2 <= rows["subset"].nunique() <= 4:
        return None
    return lines(rows, "state", by="group", panel="subset", y_title="summed probability")


def kl(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows[rows["value"] > 1e-4]
    return lines(rows, "state", by="condition", log_y=True, y_title="KL to the output (nats)")


FIGURES = [
    Drawing(
        "groups",
        "groups",
        {"subset": "all"},
        "Summed probability of each group by state",
        "The lens probability of a group's tokens, summed, at the last position; mean over prompts. A larger group "
        "sums more, so each is compared with as many random words of similar frequency. A height that is the same for "
        "every prompt (a band of no width) is the lens's own bias towards a word, not what the prompt is about.",
        by_group,
        "Bands",
        "Dotted in the same colour",
    ),
    Drawing(
        "latent",
        "latent",
        {},
        "English against the target language",
        "Probability of English words, and of the words of each prompt's target language, less that of as many random "
        "words. One frequent word can be most of a language's sum, so this is no test of a latent language.",
        by_group,
        "Bands",
    ),
    Drawing(
        "subsets",
        "groups",
        {"control": ""},
        "The same by kind of prompt",
        "Summed probability of each group, by kind of prompt; controls are in the table.",
        by_subset,
        "Bands",
        select=lambda rows: rows[rows["subset"] != "all"],
    ),
    Drawing(
        "kl",
        "kl",
        {"subset": "all"},
        "Distance from the output by state",
        "KL of the model's output to what the lens reads at the last position; logarithmic.",
        kl,
        "Bands",
    ),
]
