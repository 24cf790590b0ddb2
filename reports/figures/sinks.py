"""Figures of the attention sinks: which heads feed them, where they are, what makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..charts import head_map, lines, spectrum, spikes
from ..charts.positions import position_map
from .drawing import MAIN, Drawing, Tables, draw_all
from .views import views
from .visual_sinks import VISUAL

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]
TEXT = "all tokens"  # the fold of the figures of every token, on a page about images


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Every figure whose table is there: of images where there are some, then heads, tokens, dimensions."""
    if tables.get("visual", pd.DataFrame()).empty:
        return draw_all(FIGURES, tables)
    others = [item._replace(theme=TEXT) if item.theme == MAIN else item for item in FIGURES]
    return draw_all([*VISUAL, *others], tables)


def heads(unit: str) -> Draw:
    """One map per condition on one scale; beside a control, buttons for it and the difference."""

    def draw(rows: pd.DataFrame, _: Tables) -> go.Figure:
        shown = views(rows)
        view = "view" if shown["view"].nunique() > 1 else None
        return head_map(shown, panel="condition", view=view, unit=unit)

    return draw


def by_state(rows: pd.DataFrame, tables: Tables, *, y_title: str, log_y: bool = False) -> go.Figure:
    """A line per chosen position; φ also gets its threshold."""
    marks = _thresholds(tables) if y_title == "φ" else []
    return lines(rows, "state", by="place", panel="condition", y_title=y_title, log_y=log_y, reference=marks)


def phi_map(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return position_map(_ordered(rows), "φ")


def hidden_map(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return position_map(_ordered(rows), "share of heads")


def sink_spectrum(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = spectrum(rows, by="condition", y_title="attention on sinks")
    return figure.update_xaxes(title_text="head, from most to least")


def agreement(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return lines(rows, "state", by="condition", y_title="Jaccard overlap").update_yaxes(range=[0, 1.02])


def counts(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    names = {"phi_sinks": "φ ≥ τ", "received_sinks": "receives > k/N", "both": "both"}
    keep = [c for c in ("condition", "state", "n", "n_groups") if c in rows]
    parts = [rows[[*keep, c]].rename(columns={c: "value"}).assign(criterion=n) for c, n in names.items() if c in rows]
    if not parts:
        return None
    long = pd.concat(parts, ignore_index=True).assign(unit="tokens per passage")
    return lines(long, "state", by="criterion", panel="condition")


def only_first(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    if "only_first" not in rows or rows["only_first"].isna().all():
        return None
    bare = rows.drop(columns=["lower", "upper"], errors="ignore").assign(unit="share")
    figure = lines(bare, "state", "only_first", by="condition", y_title="share of the φ-sinks")
    return figure.update_yaxes(range=[0, 1.02])


def massive(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(series="dimension " + rows["dimension"].astype(str))
    panel = "condition" if "condition" in rows else None
    return lines(rows, "state", by="series", panel=panel, log_y=True, y_title="largest |x|")


def magnitude(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    known = tables.get("dimensions", pd.DataFrame({"dimension": []}))["dimension"].unique()
    states = " and ".join(str(state) for state in sorted(rows["state"].unique()))
    several = "condition" in rows and rows["condition"].nunique() > 1
    rows = rows.assign(panel=rows["token"] + " · " + rows["condition"] if several else rows["token"])
    figure = spikes(rows, "dimension", "panel", marked=[int(d) for d in known])
    return figure.update_yaxes(title_text=f"|x| at state {states}", col=1)


def some_positions(rows: pd.DataFrame, *, first: int) -> pd.DataFrame:
    """The first positions and the last that every condition has: more lines cannot be told apart."""
    known = rows[rows["value"].notna()].groupby("position_label")["condition"].nunique()
    common = known.index[known == rows["condition"].nunique()]
    order = rows[rows["position_label"].isin(common)].sort_values("position")["position_label"].unique().tolist()
    kept = _ordered(rows[rows["position_label"].isin([*order[:first], *order[first:][-1:]])])
    return kept.assign(place="position " + kept["position_label"].astype(str))


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """By position, conditions in the table's order."""
    place = {name: index for index, name in enumerate(rows["condition"].unique())}
    rows = rows.sort_values("position", kind="stable")
    return rows.sort_values("condition", key=lambda c: c.map(place), kind="stable")


def _thresholds(tables: Tables) -> list[tuple[float, str, str]]:
    """τ of each condition, for its panel."""
    found = tables.get("threshold", pd.DataFrame({"value": []})).dropna(subset=["value"])
    alone = len(found) == 1
    return [(float(r["value"]), _name(r, alone), "" if alone else r["condition"]) for r in found.to_dict("records")]


def _name(threshold: dict[Any, Any], alone: bool) -> str:
    blunt = " (separates nothing)" if threshold.get("note") else ""
    return f"τ = {threshold['value']:.3g}{'' if alone else ', ' + threshold['condition']}{blunt}"


PHI = "φ is the largest of the massive dimensions over the root mean square of the residual."
FIGURES = [
    Drawing(
        "phi",
        "tokens",
        {"measure": "phi"},
        "Which positions are sinks, state by state (φ)",
        partial(by_state, y_title="φ"),
        f"{PHI} Mean over passages, for the first positions and the last.",
        "A position above the dashed threshold τ (from the gap between the first and the median token of held-out "
        "passages) is a sink. Position 0 is the first token of the prompt: the BOS where there is one.",
        interval="Bands",
        select=partial(some_positions, first=4),
    ),
    Drawing(
        "sink-share",
        "heads",
        {"measure": "sink_share"},
        "How much attention each head gives to the sinks",
        heads("attention on sinks"),
        "Mean attention that a head gives to the φ-sinks of a passage; the buttons show the control, the attention on "
        "as many random visible tokens that are no sinks, and the difference.",
        "Bright: most of the head's attention lies on sinks.",
        grey="Grey: the interval does not clear the control's.",
    ),
    Drawing(
        "counts",
        "agreement",
        {"control": ""},
        "How many sinks there are, by each criterion",
        counts,
        "Mean number of tokens per passage whose φ passes τ, that receive more than k/N attention, and that do both.",
        "1: one sink a passage. Where the lines part, the two criteria mean other tokens.",
    ),
    Drawing(
        "massive",
        "dimensions",
        {},
        "The massive dimensions, state by state",
        massive,
        "Largest magnitude of each massive dimension over all tokens, logarithmic.",
        "A dimension is massive when it passes an absolute bound and a multiple of the median magnitude of its state.",
        claims=("massive dimensions",),
    ),
    Drawing(
        "only-first",
        "agreement",
        {"control": ""},
        "Is the first token the only sink?",
        only_first,
        "Share of the tokens with φ ≥ τ that are the first token of their passage.",
        "1: no other token is a sink.",
        "by position",
    ),
    Drawing(
        "phi-map",
        "tokens",
        {"measure": "phi"},
        "φ of every position",
        phi_map,
        f"{PHI} Every position, the axis logarithmic, later ones in bins.",
        "A row that stays bright is a sink through the model.",
        "by position",
    ),
    Drawing(
        "received",
        "tokens",
        {"measure": "received"},
        "Attention received, against uniform attention",
        partial(by_state, y_title="attention received", log_y=True),
        "Mean attention that a position gets in the layer that reads this state, over heads and over the queries that "
        "see it; logarithmic.",
        "A line above its dotted one gets more than its even share.",
        "by position",
        "Bands",
        "Dotted in the same colour",
        select=partial(some_positions, first=2),
        claims=("first token",),
    ),
    Drawing(
        "hidden-map",
        "hidden",
        {},
        "Hidden sinks by state and position",
        hidden_map,
        "Share of the heads of a layer for which a position is a hidden sink: its mean attention over the real queries "
        "that see it passes the threshold. Columns seen by fewer than 8 queries are left out.",
        "Bright: a sink of many heads.",
        "by position",
        claims=("hidden sinks",),
    ),
    Drawing(
        "sink-spectrum",
        "heads",
        {"measure": "sink_share"},
        "How many heads attend to the sinks",
        sink_spectrum,
        "The heads' attention on sinks sorted from large to small, each line by itself: a head may have another rank "
        "in another line.",
        "A long high shoulder: most heads attend to sinks.",
        "by head",
        "Bands",
        "Dotted",
    ),
    Drawing(
        "first-share",
        "heads",
        {"measure": "first_share"},
        "Attention on the first token",
        heads("attention on the first token"),
        "Mean attention that each head gives to the first token of the prompt.",
        "Bright: most of the head's attention.",
        "by head",
    ),
    Drawing(
        "hidden-heads",
        "heads",
        {"measure": "hidden_rate"},
        "Hidden sinks by head",
        heads("sinks per passage"),
        "Hidden sinks per passage found by the column mean in each head, the first token left out.",
        "Bright: many.",
        "by head",
    ),
    Drawing(
        "agreement",
        "agreement",
        {},
        "Do the two criteria name the same tokens?",
        agreement,
        "Jaccard overlap of the tokens with φ ≥ τ and the tokens that receive more than k/N attention (N: tokens of "
        "the passage; k: the option receives, 5 by default), mean over passages.",
        "1: the same tokens; a mean over states can hide states at which they differ.",
        "checks",
        "Bands",
        "Dotted in the same colour",
        claims=("criteria agree",),
    ),
    Drawing(
        "energy",
        "tokens",
        {"measure": "energy"},
        "Energy in the massive dimensions",
        partial(by_state, y_title="share of squared norm"),
        "φ² / d, the share of the residual's squared norm in the massive dimension.",
        "Unlike φ it can be compared between models of different width.",
        "dimensions",
        "Bands",
        select=partial(some_positions, first=4),
    ),
    Drawing(
        "magnitude",
        "magnitude",
        {},
        "A sink beside a median token",
        magnitude,
        "Magnitude of every dimension of the residual at one middle state, for the first token of a prompt and for a "
        "token of median φ, mean over passages; logarithmic, one scale.",
        "Circles: the massive dimensions.",
        "dimensions",
    ),
]
