"""Figures of direct logit attribution: which heads and MLPs write the answer; which heads copy."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, dots, head_map, lines, sample, shaded_words
from .circuits import label
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import unclear, views

ONE = "logit of "


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Heads and layers on the difference and on the answer, the strongest heads, the copying scores; or one prompt."""
    return draw_all(FIGURES, tables) | _one_prompt(tables)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The heads; beside a control, buttons for it and for the difference."""
    shown = views(rows)
    if shown["view"].nunique() == 1 and "lower" in rows:
        shown = unclear(rows)  # no control: 0 is the null
    view = "view" if "view" in shown and shown["view"].nunique() > 1 else None
    return head_map(shown, panel="condition" if "condition" in rows else None, view=view, signed=True, unit="logits")


def copying(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, signed=True, scale=(-1, 1), unit="copying score")


def by_layer(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows[rows["layer"].notna()]
    panel = "condition" if "condition" in rows else None
    zero = [(0.0, "", "")]
    return None if rows.empty else lines(rows, "layer", by="part", panel=panel, y_title="logits", reference=zero)


def strongest(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Each chosen head a line, random heads of its layer the tick on it."""
    own = rows[rows["control"] == ""]
    at = ["condition", "rank"]
    names = pd.Series(label(own).to_numpy(), index=pd.MultiIndex.from_frame(own[at]))
    name = names.reindex(pd.MultiIndex.from_frame(rows[at])).to_numpy()
    return dots(rows.assign(name=name), "name", panel="condition", zero=True)


def words(rows: pd.DataFrame, tables: Tables) -> go.Figure | None:
    """The words that the strongest heads write, on the prompt on which each writes most."""
    top = tables.get("top", pd.DataFrame())
    if top.empty:
        return None
    chosen = top[(top["control"] == "") & (top["head"] >= 0)]
    order = list(dict.fromkeys(label(chosen)))
    rows = rows[rows["prompt"] == 1].assign(head_label=lambda r: label(r))
    rows = rows[rows["head_label"].isin(order)].sort_values("head_label", key=lambda c: c.map(order.index))
    if rows.empty:
        return None
    named = rows.assign(example=rows["head_label"], position=rows["rank"])
    return shaded_words(named, unit="logits", per_line=max(int(named["rank"].max()), 1))


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
SIGN = "Above 0 (red): towards the answer; below 0 (blue): against it."
FIGURES = [
    Drawing(
        "heads-difference",
        "heads",
        {"measure": "difference"},
        "How much each head writes for the answer and against the wrong one",
        heads,
        "What each head adds by itself to logit[answer] − logit[wrong answer] at the last position, mean over prompts. "
        f"{HELD}",
        SIGN,
        grey="Grey: the head's own interval holds 0 (of many heads, one in twenty clears it by chance).",
    ),
    Drawing(
        "top",
        "top",
        {},
        "The strongest heads, chosen on one half and measured on the other",
        strongest,
        "The ten heads with the largest mean |contribution| to the difference on one half of the groups; the dots are "
        "the other half's, so they may differ from a map over all prompts.",
        "Right of 0 towards the answer. Named layer.head.",
        interval="Whiskers",
        control="Grey ticks",
        claims=("late", "few"),
    ),
    Drawing(
        "words",
        "words",
        {},
        "The words that the strongest heads write",
        words,
        "For each of those heads the words whose logits it raises most, likeliest first, on the prompt on which it "
        "writes most. An illustration.",
        "Bright: more logits.",
        select=first_condition,
    ),
    Drawing(
        "parts-difference",
        "parts",
        {"measure": "difference", "control": ""},
        "Attention and MLP, layer by layer",
        by_layer,
        "What all heads of a layer together (biases included), and its MLP, add to logit[answer] − logit[wrong "
        "answer].",
        "Above 0 towards the answer. Embedding and final bias have no layer: they are in the table.",
        interval="Bands",
    ),
    Drawing(
        "heads-answer",
        "heads",
        {"measure": "answer"},
        "How much each head raises the answer's logit",
        heads,
        f"What each head adds to the answer's logit; the buttons: to the wrong answer's, and the difference. {HELD}",
        "Red raises, blue lowers.",
        "answer alone",
        grey="Grey: the interval touches the wrong answer's, so the head does not tell them apart.",
    ),
    Drawing(
        "parts-answer",
        "parts",
        {"measure": "answer"},
        "Attention and MLP, layer by layer, answer alone",
        by_layer,
        "What all heads of a layer together, and its MLP, add to the answer's logit.",
        "Where a line lies on its dotted control, the part raises both.",
        "answer alone",
        "Bands",
        "Dotted in the same colour",
    ),
    Drawing(
        "copying",
        "copying",
        {},
        "Which heads copy, by their weights",
        copying,
        "Copying score Σ Re λ / Σ |λ| over the eigenvalues of W_E · W_V · W_O · W_U, both norms' gains folded in.",
        "1: the head raises the tokens that it attends to; −1: it lowers them. Weights alone: no prompts, no interval.",
        "by weights",
        claims=("copy",),
    ),
]
