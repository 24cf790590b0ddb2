"""Figures of faithfulness: curves, areas, effects at all positions, estimates, places in the prompt."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines
from .circuits import AGREEMENT, CHECKS, ESTIMATES, SIGN, TASK, estimates, heads_of
from .drawing import Drawing, Tables, draw_all, first_condition
from .signs import turned
from .views import unclear

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
    return dots(rows, "measure")


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(unclear(turned(rows)), signed=True, view="measure", unit="logits")


def places(rows: pd.DataFrame, _: Tables) -> go.Figure:
    names = {"attn_out": "attention output", "mlp_out": "MLP output"}
    rows = rows.assign(site=rows["site"].replace(names), place=rows["position"].str.replace("_", " "))
    return lines(turned(rows), "layer", by="place", panel="site", y_title="logits", reference=[(0.0, "", "")])


def layers_alone(rows: pd.DataFrame) -> pd.DataFrame:
    """Attention and MLP outputs, of the first condition."""
    return first_condition(rows[rows["site"] != "z"])


def head_places(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    rows = rows[rows.groupby("position")["value"].transform(lambda v: v.ne(0).any())]
    rows = rows.assign(place=rows["position"].str.replace("_", " "))
    return None if rows.empty else head_map(unclear(turned(rows)), signed=True, view="place", unit="logits")


CURVE = (
    "The first heads of a ranking are kept (those that help most, or those of largest |effect|); every other head's "
    "output is the twin's at all positions, MLPs and embeddings stay. Heads were ranked on one half of the groups, the "
    "curve is over prompts of the other."
)
FIGURES = [
    Drawing(
        "faithfulness",
        "curve",
        {"measure": "faithfulness"},
        "How much of the task so many heads do alone",
        curve,
        CURVE,
        "1: as much as the whole model, 0: as much as with no head kept. A control ends where some layer has too few "
        "other heads.",
        interval="Bands",
        control="Dotted",
        select=first_condition,
        claims=("faithful", "not depth"),
    ),
    Drawing(
        "area",
        "area",
        {},
        "Area under the curve",
        area,
        "CPR: area under the faithfulness curve of the heads that help most; CMD: area between 1 and the curve of the "
        "heads of largest |effect|; on the linear axis and, from 1 % on, per decade of the logarithmic one; and beside "
        "the control, means over the shares that have one.",
        "CPR: more is better; CMD: less is better. Circuits of heads alone: MLPs and embeddings stay clean, so these "
        "numbers cannot stand beside MIB's tables.",
        interval="Whiskers",
        control="Grey ticks",
        select=first_condition,
    ),
    Drawing(
        "effects",
        "effects",
        {"part": "head"},
        "How much each head helps at all positions",
        maps,
        "Fall of the answer's lead when a head's output is the twin's at every position (exact); and what one gradient "
        "or five (integrated gradients) say of it, on the same scale.",
        SIGN,
        select=heads_of("head", EXACT, *ESTIMATES),
        grey="Grey: not told from chance.",
    ),
    Drawing(
        "places",
        "positions",
        {},
        "Where in the prompt: attention and MLP outputs",
        places,
        "Fall of the answer's lead when a layer's attention or MLP output is the twin's at the named tokens alone. "
        "“other”: every token without a name.",
        "Above 0 it helps; 0 where the twins do not differ yet.",
        interval="Bands",
        select=layers_alone,
    ),
    Drawing(
        "head-places",
        "positions",
        {"site": "z"},
        "Where in the prompt: heads",
        head_places,
        "Fall of the answer's lead when one head's output is the twin's at the named tokens alone, on one scale.",
        f"{SIGN} Tokens before the twins part are left out: nothing differs there.",
        "by place",
        select=first_condition,
    ),
    Drawing(
        "logits",
        "curve",
        {"measure": "logit difference"},
        "The curve in logits",
        curve,
        CURVE,
        "Mean lead of the answer over the twin's answer.",
        "variants",
        "Bands",
        "Dotted",
        select=first_condition,
    ),
    Drawing(
        "estimates",
        "effects",
        {"part": "head"},
        "Exact against estimated effects",
        estimates,
        "Every head: its exact effect at all positions against each estimate.",
        "On the dashed line the estimate is exact.",
        CHECKS,
        select=heads_of("head", EXACT, *ESTIMATES),
    ),
    AGREEMENT,
    TASK,
]
