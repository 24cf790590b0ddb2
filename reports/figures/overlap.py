"""Figures of the overlap of circuits: maps on one scale, effects against each other, overlap over the range of k."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..charts import bars, head_map, lines, scatter
from ..charts.style import MISSING, TEMPLATE, UNSIGNED, plain, sized
from .circuits import STAGES, first_condition, label
from .drawing import Drawing, Tables, draw_all

MATRIX = 0.02  # the share of heads of the matrix


def figures(tables: Tables) -> dict[str, go.Figure]:
    """For every stage the maps and the curve; then scatter, matrix and correlations."""
    return draw_all(FIGURES, tables)


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    unit = "share of the task's largest |effect|"
    return head_map(rows, signed=True, panel="tasks", scale=(-1, 1), unit=unit)


def curve(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Observed overlap, the null's band and mean, and the ceiling, a panel per pair."""
    keep = ["pair", "share", "n", "n_groups", "unit"]
    observed = rows[[*keep, "value"]].assign(series="observed", lower=np.nan, upper=np.nan)
    null = rows[[*keep, "lower", "upper"]].assign(series="heads of the same layers at random", value=rows["expected"])
    bounds = {"lower": rows["ceiling_lower"], "upper": rows["ceiling_upper"]}
    ceiling = rows[keep].assign(series="ceiling: two samples of one task", value=rows["ceiling"], **bounds)
    figure = lines(pd.concat([observed, null, ceiling]), "share", by="series", panel="pair", y_title="share in common")
    figure.update_yaxes(range=[0, 1.02])
    return figure.update_xaxes(title_text="share of heads", tickformat="~%")


def effects(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    """Effect in one task against effect in the other, heads of both circuits named."""
    rows = rows.assign(label=label(rows))
    shared = tables.get("circuit", pd.DataFrame())
    named: list[str] = []
    if not shared.empty:
        both = shared[(shared["measure"] == rows["measure"].iloc[0]) & (shared["value"] >= 2)]
        named = label(both).tolist()
    titles = ("effect in the first task (logits)", "in the second (logits)")
    return scatter(rows, "value", "other", "label", titles=titles, panel="pair", named=named)


def pairs(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Every pair as bars: observed, expected by depth, ceiling."""
    rows = rows[rows["share"] == MATRIX]
    if rows["pair"].nunique() < 2:
        return None
    return bars(_with_expected(rows), "pair", by="bar")


def _with_expected(rows: pd.DataFrame) -> pd.DataFrame:
    none = pd.Series(np.nan, rows.index)
    parts = {
        "observed": (rows["value"], none, none),
        "expected by depth": (rows["expected"], rows["lower"], rows["upper"]),
        "ceiling": (rows["ceiling"], rows["ceiling_lower"], rows["ceiling_upper"]),
    }
    columns = ("value", "lower", "upper")
    return pd.concat([rows.assign(bar=name, **dict(zip(columns, of, strict=True))) for name, of in parts.items()])


def pooled(rows: pd.DataFrame, _: Tables) -> go.Figure:
    expected = rows[rows["expected"].notna()].assign(value=lambda r: r["expected"], bar="expected by depth")
    return bars(pd.concat([rows.assign(bar="observed"), expected]), "pair", by="bar", panel="measure")


def correlation(rows: pd.DataFrame, _: Tables) -> go.Figure:
    parts = {"between the tasks": rows["value"], "ceiling: halves of one task": rows["ceiling"]}
    long = pd.concat([rows.assign(value=value, bar=name) for name, value in parts.items()])
    return bars(long.assign(what=long["pair"] + " · " + long["measure"]), "what", by="bar", panel="kind")


def matrix(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Share in common of every two tasks as a matrix."""
    rows = rows[rows["share"] == MATRIX]
    if rows["pair"].nunique() < 2:
        return None
    named = [pair.split(" and ", 1) for pair in rows["pair"]]
    names = list(dict.fromkeys(name for pair in named for name in pair))
    z = np.full((len(names), len(names)), np.nan)
    text = np.full(z.shape, "", dtype=object)
    for (a, b), row in zip(named, rows.to_dict("records"), strict=True):
        i, j = names.index(a), names.index(b)
        z[i, j] = z[j, i] = row["value"]
        said = f"{row['common']} of {row['heads']}<br>q = {row['q_value']:.2g}"
        text[i, j] = text[j, i] = said
    figure = go.Figure()
    labels = [plain(name) for name in names]
    figure.add_heatmap(
        z=z, x=labels, y=labels, text=text, texttemplate="%{text}", zmin=0, zmax=1, colorscale=UNSIGNED,
        colorbar={"title": {"text": "share in common", "side": "right"}, "thickness": 12}, xgap=2, ygap=2,
        hovertemplate="%{x}, %{y}: %{z:.0%}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(template=TEMPLATE, plot_bgcolor=MISSING)
    figure.update_yaxes(autorange="reversed")
    return sized(figure, 180 + 62 * len(names), 160 + 90 * len(names))


def _stage(stage: str, number: int) -> list[Drawing]:
    return [
        Drawing(
            f"maps-{number}",
            "maps",
            {"measure": stage},
            f"The tasks' heads: {stage}",
            "Mean effect of every head, each task divided by its own largest |effect| so that one colour scale "
            "serves all; the table has the logits.",
            maps,
            select=first_condition,
        ),
        Drawing(
            f"curve-{number}",
            "overlap",
            {"measure": stage},
            f"Overlap over the range of k: {stage}",
            "Share of the k strongest heads that both tasks have in common. Band: the 95 % range and mean if heads "
            "were exchangeable within their layers (exact). Ceiling: what two samples of one task as large as these "
            "would share, with 95 % of its draws. The table has p and q, also the hypergeometric p that ignores depth.",
            curve,
            "Bands",
            select=first_condition,
        ),
    ]


FIGURES = [
    *_stage(STAGES[1], 1),
    *_stage(STAGES[0], 2),
    *_stage(STAGES[2], 3),
    Drawing(
        "scatter",
        "scatter",
        {"measure": STAGES[1]},
        "Effects against each other: path to the output",
        "One point per head. Named: heads that are in the circuits of both tasks.",
        effects,
        select=first_condition,
    ),
    Drawing(
        "scatter-last",
        "scatter",
        {"measure": STAGES[0]},
        "Effects against each other: patched at the last position",
        "One point per head. Named: heads that are in the circuits of both tasks.",
        effects,
        select=first_condition,
    ),
    Drawing(
        "matrix",
        "overlap",
        {"measure": STAGES[1]},
        "All pairs of tasks: path to the output",
        "Share of the top 2 % of heads in common, the count, and q within layers over the pairs.",
        matrix,
        select=first_condition,
    ),
    Drawing(
        "pairs",
        "overlap",
        {"measure": STAGES[1]},
        "All pairs against depth and ceiling",
        "The same shares beside what heads of the same layers would give by chance and beside the ceiling (whiskers: "
        "95 % of the null and of the ceiling's draws).",
        pairs,
        select=first_condition,
    ),
    Drawing(
        "pooled",
        "pooled",
        {},
        "Circuits pooled over the stages",
        "A circuit is the union of the top 2 % of heads of each stage that both runs have: heads in common over those "
        "of the first task, of the second, and of either (Jaccard), and the means that heads of the same layers would "
        "give. The table has p.",
        pooled,
        select=first_condition,
    ),
    Drawing(
        "correlation",
        "correlation",
        {},
        "Rank correlation of effects",
        "Spearman correlation over all heads, of |effects| and of signed effects, beside the same between two halves "
        "of one task.",
        correlation,
        select=first_condition,
    ),
]
