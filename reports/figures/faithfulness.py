"""Figures of faithfulness: curves, areas, effects at all positions, estimates, places in the prompt."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, head_map, lines
from .circuits import AGREEMENT, ESTIMATES, TASK, estimates, first_condition, heads_of
from .drawing import Drawing, Tables, draw_all

EXACT = "patched at every position"


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Curves first, then what they were made of."""
    return draw_all(FIGURES, tables)


def curve(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """The share kept on a linear and on a logarithmic axis (which has no 0)."""
    unit = rows["unit"].iloc[0]
    rows = rows.drop(columns="heads")
    both = pd.concat([rows.assign(axis="linear"), rows[rows["share"] > 0].assign(axis="logarithmic")])
    figure = lines(both, "share", by="ranking", panel="axis", y_title=str(unit))
    figure.update_xaxes(title_text="share of heads kept", tickformat="~%")
    return figure.update_xaxes(type="log", col=2)


def area(rows: pd.DataFrame, _: Tables) -> go.Figure:
    bar = rows["control"].where(rows["control"] == "", "control: " + rows["control"])
    return bars(rows.assign(bar=bar.where(bar != "", "circuit")), "measure", by="bar")


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(rows, signed=True, panel="measure", unit="logits")


def places(rows: pd.DataFrame, _: Tables) -> go.Figure:
    names = {"attn_out": "attention output", "mlp_out": "MLP output"}
    rows = rows.assign(site=rows["site"].replace(names), place=rows["position"].str.replace("_", " "))
    return lines(rows, "layer", by="place", panel="site", y_title="logits")


def layers_alone(rows: pd.DataFrame) -> pd.DataFrame:
    """Attention and MLP outputs, of the first condition."""
    return first_condition(rows[rows["site"] != "z"])


def head_places(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows[rows.groupby("position")["value"].transform(lambda v: v.ne(0).any())]
    rows = rows.assign(place=rows["position"].str.replace("_", " "))
    return head_map(rows, signed=True, panel="place", unit="logits")


CURVE = (
    "The first heads of a ranking are kept (those that help most, or those of largest |effect|), every other head's "
    "output is the corrupt twin's at all positions; MLPs and embeddings are never resampled. Heads were ranked on one "
    "half of the groups, the curve is over prompts of the other. A control ends where some layer has too few others."
)
FIGURES = [
    Drawing(
        "faithfulness",
        "curve",
        {"measure": "faithfulness"},
        "How much of the task a circuit does alone",
        f"{CURVE} 1: as much as the whole model, 0: as much as with no head kept.",
        curve,
        "Bands",
        "Dotted",
        select=first_condition,
    ),
    Drawing(
        "logits",
        "curve",
        {"measure": "logit difference"},
        "The same in logits",
        f"{CURVE} Mean logit difference between the answer and the twin's answer.",
        curve,
        "Bands",
        "Dotted",
        select=first_condition,
    ),
    Drawing(
        "area",
        "area",
        {},
        "Area under the curve",
        "CPR: area under the faithfulness curve of the heads that help most (more is better); CMD: area between 1 and "
        "the curve of the heads of largest |effect| (less is better); on the linear axis and, from 1 % on, per decade "
        "of the logarithmic one; and beside the control as means over the shares that have one. Circuits of heads "
        "alone: MLPs and embeddings stay clean, so these numbers cannot stand beside MIB's tables.",
        area,
        "Whiskers",
        "Hatched",
        select=first_condition,
    ),
    Drawing(
        "effects",
        "effects",
        {"part": "head"},
        "Effects at all positions, exact and estimated",
        "Patched minus clean logit difference when a head's output is the twin's at every position; and what one "
        "gradient or five (integrated gradients) say of it. One scale.",
        maps,
        select=heads_of("head", EXACT, *ESTIMATES),
    ),
    Drawing(
        "estimates",
        "effects",
        {"part": "head"},
        "Exact against estimated",
        "Every head: its exact effect at all positions against each estimate. Dashed: equal.",
        estimates,
        select=heads_of("head", EXACT, *ESTIMATES),
    ),
    AGREEMENT,
    TASK,
    Drawing(
        "places",
        "positions",
        {},
        "Where in the prompt: attention and MLP outputs",
        "Exact effect of replacing a layer's attention or MLP output at the named tokens alone. “other”: every token "
        "without a name. 0 where the twins do not differ yet.",
        places,
        "Bands",
        select=layers_alone,
    ),
    Drawing(
        "head-places",
        "positions",
        {"site": "z"},
        "Where in the prompt: heads",
        "Exact effect of replacing one head's output at the named tokens alone, on one scale. No panel for tokens "
        "before the twins part: nothing differs there.",
        head_places,
        select=first_condition,
    ),
]
