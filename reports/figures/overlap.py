"""Figures of the overlap of circuits: maps on one scale, effects against each other, overlap over the range of k."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines, scatter
from ..charts.style import MISSING, TEMPLATE, UNSIGNED, digits, plain, sized
from .circuits import SIGN, STAGES, label
from .drawing import Drawing, Tables, draw_all, first_condition
from .signs import turned

MATRIX = 0.02  # the share of heads of the matrix


def figures(tables: Tables) -> dict[str, go.Figure]:
    """For every stage the maps and the curve; then scatter, matrix and correlations."""
    return draw_all(FIGURES, tables)


def maps(rows: pd.DataFrame, _: Tables) -> go.Figure:
    unit = "share of the task's largest |effect|"
    return head_map(turned(rows), signed=True, panel="tasks", scale=(-1, 1), unit=unit)


NULL, CEILING = "heads of the same layers at random", "ceiling: two samples of one task"


def overlap(rows: pd.DataFrame, tables: Tables) -> go.Figure | None:
    """All stages of one pair of tasks; of several pairs the paths to the output."""
    if rows["pair"].nunique() == 1:
        return curve(rows.assign(pair=rows["measure"]), tables)
    rows = rows[rows["measure"] == STAGES[1]]
    return None if rows.empty else curve(rows, tables)


def other_stage(rows: pd.DataFrame, tables: Tables) -> go.Figure | None:
    return curve(rows, tables) if rows["pair"].nunique() > 1 else None


def curve(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Observed overlap, the null's band and mean, and the ceiling, a panel per pair; the share logarithmic."""
    keep = ["pair", "share", "n", "n_groups", "unit"]
    rows = rows[rows["share"] > 0]
    observed = rows[[*keep, "value"]].assign(series="observed", control="", lower=np.nan, upper=np.nan)
    null = rows[[*keep, "lower", "upper"]].assign(series="observed", control=NULL, value=rows["expected"])
    bounds = {"lower": rows["ceiling_lower"], "upper": rows["ceiling_upper"]}
    ceiling = rows[keep].assign(series=CEILING, control="", value=rows["ceiling"], **bounds)
    ceiling = ceiling[ceiling["value"].notna()]
    figure = lines(pd.concat([observed, null, ceiling]), "share", by="series", panel="pair", y_title="share in common")
    figure.update_yaxes(range=[0, 1.02])
    ticks = {"tickvals": SHARES, "ticktext": [f"{share:.0%}" for share in SHARES]}
    return figure.update_xaxes(title_text="share of heads (logarithmic)", type="log", **ticks)


SHARES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


def effects(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    """Effect in one task against effect in the other, heads of both circuits named."""
    rows = turned(rows).assign(label=label(rows), other=-rows["other"])
    shared = tables.get("circuit", pd.DataFrame())
    named: list[str] = []
    if not shared.empty:
        both = shared[(shared["measure"] == rows["measure"].iloc[0]) & (shared["value"] >= 2)]
        named = label(both).tolist()
    pairs = rows["pair"].unique()
    first, second = pairs[0].split(" and ", 1) if len(pairs) == 1 else ("the first task", "the second")
    titles = (f"effect in {first} (logits)", f"in {second} (logits)")
    return scatter(rows, "value", "other", "label", titles=titles, panel="pair", named=named)


def pairs(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """Every pair a line: observed, expected by depth, ceiling."""
    rows = rows[rows["share"] == MATRIX]
    if rows["pair"].nunique() < 2:
        return None
    none = pd.Series(np.nan, rows.index)
    parts = {
        "observed": (rows["value"], none, none, ""),
        "expected by depth": (rows["expected"], rows["lower"], rows["upper"], "expected by depth"),
        CEILING: (rows["ceiling"], rows["ceiling_lower"], rows["ceiling_upper"], CEILING),
    }
    columns = ("value", "lower", "upper", "control")
    return dots(pd.concat([rows.assign(**dict(zip(columns, of, strict=True))) for of in parts.values()]), "pair")


def pooled(rows: pd.DataFrame, _: Tables) -> go.Figure:
    expected = rows[rows["expected"].notna()].assign(value=lambda r: r["expected"], control="expected by depth")
    return dots(pd.concat([rows.assign(control=""), expected]), "measure", panel="pair")


def correlation(rows: pd.DataFrame, _: Tables) -> go.Figure:
    parts = {"": rows["value"], "ceiling: halves of one task": rows["ceiling"]}
    long = pd.concat([rows.assign(value=value, control=name) for name, value in parts.items()])
    what = long["measure"] if rows["pair"].nunique() == 1 else long["pair"] + " · " + long["measure"]
    return dots(long.assign(what=what), "what", panel="kind", zero=True)


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
    bar = {"title": {"text": "share in<br>common", "side": "top"}, "thickness": 12}
    figure.add_heatmap(
        z=[digits(line) for line in z],
        x=labels,
        y=labels,
        text=text.tolist(),
        texttemplate="%{text}",
        zmin=0,
        zmax=1,
        colorscale=UNSIGNED,
        colorbar=bar,
        xgap=2,
        ygap=2,
        hovertemplate="%{x}, %{y}: %{z:.0%}<extra></extra>",
    )
    figure.update_layout(template=TEMPLATE, plot_bgcolor=MISSING)
    figure.update_yaxes(autorange="reversed")
    return sized(figure, 180 + 62 * len(names), 160 + 90 * len(names))


SHARED = (
    "Share of the k strongest heads that both tasks have in common, over k. Dotted: what heads of the same layers at "
    "random would share, with its exact 95 % range; the ceiling: what two samples of one task would share.",
    "Above the dotted band the tasks share more than depth alone explains; at the ceiling as much as can be seen. The "
    "table has p and q, also the hypergeometric p that ignores depth.",
)


def _curve(number: int, stage: str) -> Drawing:
    title = f"How many of the strongest heads two tasks share: {stage}"
    return Drawing(
        *(f"curve-{number}", "overlap", {"measure": stage}, title, other_stage, *SHARED, "other stages", "Bands"),
        select=first_condition,
    )


def _maps(number: int, stage: str) -> Drawing:
    return Drawing(
        f"maps-{number}",
        "maps",
        {"measure": stage},
        f"The heads of every task: {stage}",
        maps,
        "Mean effect of every head, each task divided by its own largest |effect| so that one colour scale serves all.",
        f"{SIGN} The table has the logits.",
        "by head",
        select=first_condition,
    )


def _scatter(name: str, stage: str, theme: str) -> Drawing:
    return Drawing(
        name,
        "scatter",
        {"measure": stage},
        f"Each head's effect in one task against the other: {stage}",
        effects,
        "One point per head; named: heads in the circuits of both tasks, else those that lie farthest out.",
        "Upper right: helps both tasks. Upper left and lower right: helps one and works against the other.",
        theme,
        select=first_condition,
    )


FIGURES = [
    Drawing(
        *("overlap", "overlap", {}, "How many of the strongest heads two tasks share", overlap, *SHARED),
        interval="Bands",
        select=first_condition,
        claims=("shared",),
    ),
    _scatter("scatter", STAGES[1], "main"),
    Drawing(
        "correlation",
        "correlation",
        {},
        "Do effects agree over all heads, in size and in sign?",
        correlation,
        "Rank correlation (Spearman) over all heads of |effects| and of signed effects; grey ticks: the same between "
        "two halves of one task.",
        "Sizes that agree while signs do not: the same heads are large and do other work.",
        select=first_condition,
    ),
    Drawing(
        "matrix",
        "overlap",
        {"measure": STAGES[1]},
        "Every two tasks: path to the output",
        matrix,
        "Share of the top 2 % of heads in common, the count, and q within layers over the pairs.",
        "Yellow: many heads in common.",
        select=first_condition,
    ),
    Drawing(
        "pairs",
        "overlap",
        {"measure": STAGES[1]},
        "Every two tasks beside depth and ceiling",
        pairs,
        "The same shares beside what heads of the same layers would give by chance and beside the ceiling (whiskers: "
        "95 % of the null and of the ceiling's draws).",
        "A dot right of its tick is more than depth explains.",
        "variants",
        select=first_condition,
    ),
    Drawing(
        "pooled",
        "pooled",
        {},
        "Circuits pooled over the stages",
        pooled,
        "A circuit is the union of the top 2 % of heads of each stage that both runs have: heads in common over those "
        "of the first task, of the second, and of either (Jaccard); grey ticks: what heads of the same layers would "
        "give on average.",
        "A dot right of its tick is more than depth explains. The table has p.",
        "variants",
        select=first_condition,
    ),
    _curve(2, STAGES[0]),
    _curve(3, STAGES[2]),
    _curve(4, STAGES[3]),
    _curve(5, STAGES[4]),
    _scatter("scatter-last", STAGES[0], "other stages"),
    _maps(1, STAGES[1]),
    _maps(2, STAGES[0]),
    _maps(3, STAGES[2]),
    _maps(4, STAGES[3]),
    _maps(5, STAGES[4]),
]
