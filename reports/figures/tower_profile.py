"""Figures of tower_profile: how far blocks look, attention by distance, groups of heads, the class token."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, heat_map, lines, scatter
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views

SELF = ("patch → itself", "patch → class token", "class token → class token")


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Distance by block, by head and as a profile, groups of heads; all statistics in folds."""
    return draw_all(FIGURES, tables)


def by_block(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows).assign(line="measured")
    return lines(shown, "layer", by="line", panel="measure", y_title=str(rows["unit"].iloc[0]), markers=False)


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = first_condition(rows)
    return head_map(views(rows), panel="measure", view="view", unit=str(rows["unit"].iloc[0]))


def hops(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return heat_map(first_condition(rows), "layer", "distance", unit="times uniform")


def clusters(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    label = shown["layer"].astype(int).astype(str) + "." + shown["head"].astype(int).astype(str)
    titles = ("first component", "second component")
    return scatter(shown.assign(label=label), "pc1", "pc2", "label", titles=titles, by="cluster")


def stability(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return dots(first_condition(rows), "of", x_title="adjusted Rand index", zero=True)


def updates(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(first_condition(rows), "layer", by="measure", y_title="of the residual's norm", markers=False)


FIGURES = [
    Drawing(
        "distance",
        "blocks",
        {"measure": "distance of attended patches"},
        "How far the patches look, block by block",
        by_block,
        "Mean distance of the patches that a patch attends to, mean over heads, patches and pictures; the class token "
        "is left out.",
        "Below the dotted line of uniform attention, which depends on the grid alone, patches look near.",
        interval="Bands",
        control="Dotted",
        claims=("later blocks look further", "early blocks look near"),
    ),
    Drawing(
        "heads",
        "heads",
        {"measure": "distance of attended patches"},
        "How far each head looks",
        heads,
        "Mean distance of attended patches by head, in patches.",
        "",
    ),
    Drawing(
        "hops",
        "hops",
        {},
        "Attention by distance",
        hops,
        "Attention on all patches at a distance, mean over a block's heads, over that of uniform attention.",
        "1: as uniform attention; distance 0 is the patch itself.",
    ),
    Drawing(
        "clusters",
        "clusters",
        {},
        "Heads that attend alike",
        clusters,
        "Each head by the two largest components of its attention by distance; colours: groups by k-means.",
        "Groups mean something where the figure below shows that another half of the pictures gives them again.",
    ),
    Drawing(
        "stability",
        "stability",
        {},
        "Are the groups of heads the same on another half?",
        stability,
        "Adjusted Rand index (1: the same groups, 0: chance) of the groups found on two halves of the pictures.",
        "",
        "groups of heads",
        interval="Whiskers",
        control="Grey",
    ),
    Drawing(
        "own",
        "blocks",
        {},
        "How much patches look at themselves",
        by_block,
        "Attention of a patch on itself and on the class token, and of the class token on itself; mean over heads.",
        "Panels of the class token are missing where the tower has none.",
        "block statistics",
        interval="Bands",
        control="Dotted",
        select=lambda rows: rows[rows["measure"].isin(SELF)],
        claims=("patches look at themselves",),
    ),
    Drawing(
        "entropy",
        "blocks",
        {"unit": "nats"},
        "How widely patches look",
        by_block,
        "Entropy of a row over patches, in nats, mean over heads.",
        "",
        "block statistics",
        interval="Bands",
        control="Dotted",
    ),
    Drawing(
        "updates",
        "blocks",
        {"unit": "of the residual's norm"},
        "How much each module adds",
        updates,
        "Norm of what attention and MLP add, over the norm of the residual stream that they add it to, mean over "
        "tokens.",
        "",
        "block statistics",
        interval="Bands",
    ),
]
