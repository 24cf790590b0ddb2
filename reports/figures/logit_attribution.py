"""Figures of direct logit attribution: which heads and MLPs write the answer; which heads copy."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, captioned, head_map, lines, sample
from .drawing import Drawing, Tables, draw_all, with_panels

ONE = "logit of "


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Heads and layers on the difference and on the answer, the strongest heads, the copying scores; or one prompt."""
    return draw_all(FIGURES, tables) | _one_prompt(tables)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(with_panels(rows), panel="panel", signed=True, unit="logits")


def copying(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, signed=True, scale=(-1, 1), unit="copying score")


def by_layer(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows[rows["layer"].notna()]
    panel = "condition" if rows["condition"].nunique() > 1 else None
    return None if rows.empty else lines(rows, "layer", by="part", panel=panel, y_title="logits")


def strongest(rows: pd.DataFrame, _: Tables) -> go.Figure:
    known = rows[rows["head"] >= 0].set_index(["condition", "rank"])["head"]
    at = pd.MultiIndex.from_frame(rows[["condition", "rank"]])
    name = rows["layer"].astype(str) + "." + known.reindex(at).astype(str).to_numpy()
    bar = rows["control"].where(rows["control"] != "", "chosen heads")
    return bars(rows.assign(name=name, bar=bar), "name", by="bar", panel="condition")


def _one_prompt(tables: Tables) -> dict[str, go.Figure]:
    """The figures of `crosslens show`, which has no intervals."""
    drawn = {}
    for table, draw in (("heads", heads), ("parts", by_layer)):
        rows = tables.get(table, pd.DataFrame({"measure": []}))
        rows = rows[rows["measure"].astype(str).str.startswith(ONE)]
        figure = None if rows.empty else draw(rows, tables)
        if figure is not None:
            what = rows["measure"].iloc[0]
            said = f"Direct contributions to the {what} at the last position. {sample(rows)}"
            drawn[f"one-{table}"] = captioned(figure, f"What writes the {what}, by {table}", said, table)
    return drawn


HELD = "The final norm is held at the scale that it has for the whole residual."
FIGURES = [
    Drawing(
        "heads-difference",
        "heads",
        {"measure": "difference"},
        "Which heads write the answer and not the wrong one",
        f"Direct contribution of each head to logit[answer] − logit[wrong answer] at the last position, mean over "
        f"prompts. {HELD}",
        heads,
    ),
    Drawing(
        "top",
        "top",
        {},
        "The strongest heads, chosen on one half and measured on the other",
        "The ten heads with the largest mean |contribution| to the difference on one half of the groups; the bars are "
        "the other half's. Named layer.head.",
        strongest,
        "Whiskers",
        "Hatched",
    ),
    Drawing(
        "heads-answer",
        "heads",
        {"measure": "answer"},
        "Which heads raise the answer's logit",
        f"Direct contribution of each head to the answer's logit, and to the wrong answer's, on one colour scale. "
        f"{HELD}",
        heads,
    ),
    Drawing(
        "parts-difference",
        "parts",
        {"measure": "difference", "control": ""},
        "Attention and MLP by layer",
        "Direct contribution of all heads of a layer together (biases included) and of its MLP to logit[answer] − "
        "logit[wrong answer]. Embedding and final bias have no layer: they are in the table.",
        by_layer,
        "Bands",
    ),
    Drawing(
        "parts-answer",
        "parts",
        {"measure": "answer"},
        "Attention and MLP by layer, answer alone",
        "The same for the answer's logit.",
        by_layer,
        "Bands",
        "Dotted in the same colour",
    ),
    Drawing(
        "copying",
        "copying",
        {},
        "Which heads copy, by their weights",
        "Σ Re λ / Σ |λ| over the eigenvalues of W_E · W_V · W_O · W_U with both norms' gains folded in: 1 where a head "
        "raises the tokens that it attends to, −1 where it lowers them. Weights alone: no prompts, no interval.",
        copying,
    ),
]
