"""Figures of the attention sinks: which heads feed them, where they are, what makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..charts import head_map, heat_map, lines, picture_maps, scatter, spectrum, spikes
from .drawing import Drawing, Tables, draw_all, with_panels

Draw = Callable[[pd.DataFrame, Tables], go.Figure | None]


def figures(tables: Tables) -> dict[str, go.Figure]:
    """Every figure whose table is there, in the order of the argument: heads, tokens, dimensions."""
    return draw_all(FIGURES, tables)


def heads(unit: str) -> Draw:
    """One map per condition and control, all on one scale."""
    return lambda rows, _: head_map(with_panels(rows), panel="panel", unit=unit)


def by_state(rows: pd.DataFrame, tables: Tables, *, y_title: str, log_y: bool = False) -> go.Figure:
    """A line per chosen position; φ also gets its threshold."""
    marks = _thresholds(tables) if y_title == "φ" else []
    return lines(rows, "state", by="place", panel="condition", y_title=y_title, log_y=log_y, reference=marks)


def position_map(rows: pd.DataFrame, unit: str) -> go.Figure:
    """State × position, one panel per condition."""
    rows = _ordered(rows)
    figure = heat_map(rows, "state", "position_label", panel="condition", unit=unit)
    return figure.update_yaxes(title_text="position")


def phi_map(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return position_map(rows, "φ")


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


def hidden_map(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return position_map(rows, "share of heads")


def massive(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = rows.assign(series="dimension " + rows["dimension"].astype(str))
    panel = "condition" if "condition" in rows and rows["condition"].nunique() > 1 else None
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
    return [(float(r["value"]), _name(r), r["condition"]) for r in found.to_dict("records")]


def _name(threshold: dict[Any, Any]) -> str:
    blunt = " (separates nothing)" if threshold.get("note") else ""
    return f"τ = {threshold['value']:.3g}{blunt}"


def by_token(y_title: str) -> Draw:
    """A line per kind of token, a panel per condition."""
    return lambda rows, _: lines(rows, "state", by="token", panel="condition", y_title=y_title)


def on_image(rows: pd.DataFrame, _: Tables) -> go.Figure:
    figure = heat_map(rows, "column", "row", panel="condition", unit="φ")
    return figure.update_yaxes(autorange="reversed", title_text="row of patches")


def on_pictures(rows: pd.DataFrame, tables: Tables) -> go.Figure:
    first = rows["condition"].iloc[0]
    pictures = tables["pictures"]
    return picture_maps(
        rows[rows["condition"] == first], pictures[pictures["condition"] == first], flag="sink", unit="φ"
    )


def mass_and_ratio(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """A point per head: how much it looks at the image, and how much of that is on other tokens than sinks."""
    keys = ["condition", "layer", "head"]
    wide = rows.pivot_table("value", keys, "measure").dropna().reset_index()
    third = (wide["layer"] * 3 // (wide["layer"].max() + 1)).map(dict(enumerate(("early", "middle", "late"))))
    wide = wide.assign(name=wide["layer"].astype(str) + "." + wide["head"].astype(str), layers=third + " third")
    titles = ("attention on the image", "non-sink ratio")
    return scatter(wide, "visual mass", "non-sink ratio", "name", titles=titles, by="layers", panel="condition")


def masking(rows: pd.DataFrame, _: Tables) -> go.Figure:
    series = ("control: " + rows["control"]).where(rows["control"] != "", "image tokens with φ ≥ τ")
    rows = rows.assign(series=series).drop(columns="control")
    figure = lines(rows, "tau", by="series", panel="condition", y_title="share right")
    return figure.update_xaxes(title_text="τ: tokens of larger φ are masked")


VISUAL = [
    Drawing(
        "visual-phi",
        "visual",
        {"measure": "φ"},
        "φ inside the image",
        "φ of the first token of the prompt, and of the image tokens with the largest and with the median φ. A visual "
        "sink has a φ near the first token's.",
        by_token("φ"),
        "Bands",
    ),
    Drawing(
        "visual-sinks",
        "visual",
        {"measure": "sinks"},
        "How many image tokens are sinks",
        "Share of the image tokens with φ ≥ τ. Where it is 0, this model has no visual sinks by this criterion.",
        by_token("share of image tokens"),
        "Bands",
    ),
    Drawing(
        "visual-place",
        "visual",
        {"measure": "on objects"},
        "Do visual sinks lie on objects?",
        "Share of the visual sinks that lie on patches of an object.",
        lambda rows, _: lines(rows, "state", by="token", panel="condition", y_title="share on objects"),
        "Bands",
        "Dotted in the same colour",
    ),
    Drawing(
        "patches",
        "patches",
        {},
        "Where φ is large in the image",
        "Mean φ of the patches at one middle state, laid out as they lie in the image.",
        on_image,
    ),
    Drawing(
        "on-pictures",
        "on_pictures",
        {},
        "Sinks on the pictures",
        "φ of every patch of a few pictures at the middle state, laid over them; a patch with φ ≥ τ is framed: "
        "where no frame is, this picture has no visual sink there. Chosen by their place in the task: illustrations, "
        "not a measurement.",
        on_pictures,
    ),
    Drawing(
        "contribution",
        "visual",
        {"measure": "contribution"},
        "What tokens contribute to the last position",
        "Norm of what one token adds to the last position through all heads of a layer, ‖Σ A·v·W_O‖, mean over the "
        "tokens of a kind: a sink takes attention and gives little.",
        by_token("norm of the contribution"),
        "Bands",
    ),
    Drawing(
        "visual-mass",
        "visual_heads",
        {"measure": "visual mass"},
        "Attention of the last position on the image",
        "Mean attention that each head of the last position gives to the image.",
        heads("attention on the image"),
    ),
    Drawing(
        "nonsink",
        "visual_heads",
        {"measure": "non-sink ratio"},
        "How much of that is on other tokens than sinks",
        "Visual non-sink ratio: attention on image tokens that are no sinks over attention on all image tokens. Heads "
        "with much visual mass and a large ratio are image-centric.",
        heads("non-sink ratio"),
    ),
    Drawing(
        "image-centric",
        "visual_heads",
        {},
        "Which heads are image-centric",
        "Every head of the last position: its mean attention on the image, and the share of it on image tokens that "
        "are no sinks. Heads up and to the right are image-centric; intervals are in the table.",
        mass_and_ratio,
    ),
    Drawing(
        "masking",
        "masking",
        {"measure": "accuracy"},
        "Accuracy when image tokens are masked",
        "Share of right answers when nobody outside of the image reads the image tokens with φ ≥ τ at the middle state "
        "(in all layers), and when as many random image tokens are masked, over τ.",
        masking,
        "Bands",
    ),
]
FIGURES = [
    Drawing(
        "sink-share",
        "heads",
        {"measure": "sink_share"},
        "Which heads attend to the sinks",
        "Mean attention that a head gives to the φ-sinks of a passage, one cell per head, with and without "
        "a BOS token; the control is the attention on as many random visible tokens that are no sinks. One "
        "colour scale for all panels.",
        heads("attention on sinks"),
    ),
    Drawing(
        "sink-spectrum",
        "heads",
        {"measure": "sink_share"},
        "How many heads attend to the sinks",
        "The values of the map above sorted from large to small, each condition and control by itself: a "
        "head may have another rank in another line.",
        sink_spectrum,
        "Bands",
        "Dotted",
    ),
    Drawing(
        "phi",
        "tokens",
        {"measure": "phi"},
        "φ by state and position",
        "φ, the largest of the massive dimensions over the root mean square of the residual, mean over "
        "passages. Position 0 is the first token of the prompt: the BOS where there is one. Dashed: the "
        "threshold τ, from the gap between the first and the median token of held-out passages.",
        partial(by_state, y_title="φ"),
        "Bands",
        select=partial(some_positions, first=4),
    ),
    Drawing(
        "phi-map",
        "tokens",
        {"measure": "phi"},
        "φ of every position",
        "The same φ at every position, later ones in bins, on one colour scale for both conditions. A row "
        "that stays bright is a sink through the model.",
        phi_map,
    ),
    Drawing(
        "energy",
        "tokens",
        {"measure": "energy"},
        "Energy in the massive dimensions",
        "φ² / d, the share of the residual's squared norm in the massive dimension. Unlike φ it can be "
        "compared between models of different width.",
        partial(by_state, y_title="share of squared norm"),
        "Bands",
        select=partial(some_positions, first=4),
    ),
    Drawing(
        "received",
        "tokens",
        {"measure": "received"},
        "Attention received, against uniform attention",
        "Mean attention that a position gets in the layer that reads this state, over heads and over the "
        "queries that see it; logarithmic.",
        partial(by_state, y_title="attention received", log_y=True),
        "Bands",
        "Dotted in the same colour",
        select=partial(some_positions, first=2),
    ),
    Drawing(
        "agreement",
        "agreement",
        {},
        "Do the two criteria name the same tokens?",
        "Jaccard overlap of the tokens with φ ≥ τ and the tokens that receive more than k/N attention (N: "
        "tokens of the passage; k: the option receives, 5 by default), mean over passages.",
        agreement,
        "Bands",
        "Dotted in the same colour",
    ),
    Drawing(
        "counts",
        "agreement",
        {"control": ""},
        "How many sinks by each criterion",
        "Mean number of tokens per passage that meet each of the two criteria, and that meet both.",
        counts,
    ),
    Drawing(
        "only-first",
        "agreement",
        {"control": ""},
        "Is the first token the only sink?",
        "Share of the tokens with φ ≥ τ that are the first token of their passage.",
        only_first,
    ),
    Drawing(
        "hidden-map",
        "hidden",
        {},
        "Hidden sinks by state and position",
        "Share of the heads of a layer for which a position is a hidden sink: its mean attention over the "
        "real queries that see it passes the threshold. Columns seen by fewer than 8 queries are left out.",
        hidden_map,
    ),
    Drawing(
        "hidden-heads",
        "heads",
        {"measure": "hidden_rate"},
        "Hidden sinks by head",
        "Hidden sinks per passage found by the column mean in each head, the first token left out.",
        heads("sinks per passage"),
    ),
    Drawing(
        "first-share",
        "heads",
        {"measure": "first_share"},
        "Attention on the first token",
        "Mean attention that each head gives to the first token of the prompt.",
        heads("attention on the first token"),
    ),
    Drawing(
        "massive",
        "dimensions",
        {},
        "Massive dimensions by state",
        "Largest magnitude of each massive dimension over all tokens, logarithmic. A dimension is massive "
        "when it passes an absolute bound and a multiple of the median magnitude of its state.",
        massive,
    ),
    Drawing(
        "magnitude",
        "magnitude",
        {},
        "A sink beside a median token",
        "Magnitude of every dimension of the residual at one middle state, for the first token of a prompt and for a "
        "token of median φ, mean over passages; logarithmic, one scale. Circles: the massive dimensions.",
        magnitude,
    ),
    *VISUAL,
]
