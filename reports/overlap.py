"""Figures of the overlap of circuits: maps on one scale, effects against each other, overlap over the range of k."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .charts import bars, head_map, lines, scatter
from .circuits import label
from .drawing import Drawing, Tables, draw_all
from .style import MISSING, TEMPLATE, UNSIGNED, plain, sized

STAGES = ("patched at the last position", "path to the output", "path to the movers' queries")
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
    ceiling = rows[keep].assign(series="ceiling: halves of one task", value=rows["ceiling"])
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
    missing = {"lower": np.nan, "upper": np.nan}
    parts = {
        "observed": rows["value"],
        "expected by depth": rows["expected"],
        "ceiling": rows["ceiling"],
    }
    return pd.concat([rows.assign(value=value, bar=name, **missing) for name, value in parts.items()])


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
        said = f"{row['common']} of {row['heads']}<br>p = {row['p_value']:.2g}"
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
        ),
        Drawing(
            f"curve-{number}",
            "overlap",
            {"measure": stage},
            f"Overlap over the range of k: {stage}",
            "Share of the k strongest heads that both tasks have in common. Band: the 95 % range and mean if heads "
            "were exchangeable within their layers (exact). Ceiling: two halves of one task. The table has p-values, "
            "also the hypergeometric one that ignores depth.",
            curve,
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
    ),
    Drawing(
        "scatter-last",
        "scatter",
        {"measure": STAGES[0]},
        "Effects against each other: patched at the last position",
        "One point per head. Named: heads that are in the circuits of both tasks.",
        effects,
    ),
    Drawing(
        "matrix",
        "overlap",
        {"measure": STAGES[1]},
        "All pairs of tasks: path to the output",
        "Share of the top 2 % of heads in common, the count, and p within layers.",
        matrix,
    ),
    Drawing(
        "pairs",
        "overlap",
        {"measure": STAGES[1]},
        "All pairs against depth and ceiling",
        "The same shares beside what heads of the same layers would give by chance and beside the ceiling.",
        pairs,
    ),
    Drawing(
        "correlation",
        "correlation",
        {},
        "Rank correlation of effects",
        "Spearman correlation over all heads, of |effects| and of signed effects, beside the same between two halves "
        "of one task.",
        correlation,
    ),
]
