"""Figures of influence: what heads need by distance, role and head; estimates beside real masking; interaction."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ..charts import dots, head_map, lines, scatter
from .drawing import Drawing, Tables, draw_all, first_condition
from .views import views

PAIRS = 12
FIRST = "the first token"
WORDS = {
    "answer": "the answer",
    "wrong": "a wrong answer",
    "top": "the five likeliest words",
    "variance": "variance over all words",
}
ENTRY = {"random": "a random entry", "largest": "the largest entry"}


def figures(tables: Tables) -> dict[str, go.Figure]:
    """By distance, by head, calibration, interaction; roles and the paper's absent picture in folds."""
    return draw_all(FIGURES, tables)


def by_distance(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Mean over layers would hide them: a panel for each quarter of the depth."""
    rows = first_condition(rows)
    rows = rows[rows["distance"] != FIRST]  # it would take the scale
    layers = sorted(rows["layer"].unique())
    kept = [layers[int(share * (len(layers) - 1))] for share in (0.25, 0.5, 0.75, 1.0)]
    shown = rows[rows["layer"].isin(kept)].copy()
    shown["place"] = "layer " + shown["layer"].astype(int).astype(str)
    return dots(shown, "distance", panel="place", x_title="logits a key")


def heads(rows: pd.DataFrame, _: Tables) -> go.Figure:
    return head_map(views(first_condition(rows)), panel="measure", view="view", unit=str(rows["unit"].iloc[0]))


def names(rows: pd.DataFrame, _: Tables) -> go.Figure:
    rows = first_condition(rows)
    return dots(rows.assign(name=rows["name"].str.replace("_", " ")), "name", x_title="share of influence")


def masked(rows: pd.DataFrame, _: Tables) -> go.Figure:
    """Estimate against what masking did, random and largest entries apart."""
    rows = first_condition(rows)
    prompt = (pd.factorize(rows["example"])[0] + 1).astype(str)
    label = "L" + rows["layer"].astype(int).astype(str) + ", prompt " + prompt
    rows = rows.assign(label=label, entry=rows["entry"].map(ENTRY))
    titles = ("first-order estimate, logits", "what masking changed, logits")
    return scatter(rows, "estimate", "value", "label", panel="entry", titles=titles, diagonal=True)


def calibration(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    return dots(shown.assign(entry=shown["entry"].map(ENTRY)), "entry", panel="measure", zero=True)


def interaction(rows: pd.DataFrame, _: Tables) -> go.Figure:
    shown = first_condition(rows)
    shown = shown[shown["step"] == shown["step"].min()].assign(control="")
    return dots(shown.assign(word=shown["word"].map(WORDS)), "word", panel="without", x_title="nats", zero=True)


def steps(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    shown = first_condition(rows).assign(control="")
    if shown["step"].nunique() < 2:
        return None
    return lines(shown.assign(word=shown["word"].map(WORDS)), "step", by="word", panel="without", y_title="nats")


def roles(rows: pd.DataFrame, _: Tables) -> go.Figure | None:
    """The largest pairs, largest first."""
    rows = first_condition(rows)
    if len(rows[["query", "key"]].drop_duplicates()) < 2:  # texts of one role
        return None
    shown = rows.assign(pair=rows["query"] + " → " + rows["key"])
    own = shown[shown["control"].fillna("") == ""].nlargest(PAIRS, "value")["pair"]
    kept = shown[shown["pair"].isin(own)]
    return dots(kept.sort_values("pair", key=lambda pairs: pairs.map({p: i for i, p in enumerate(own)})), "pair")


FIGURES = [
    Drawing(
        "influence",
        "influence",
        {},
        "What heads need for the answer, by distance",
        by_distance,
        "Mean |E| of one key at each distance from the query, over all heads of four layers: to first order, what the "
        "answer's lead loses where the key is not read. The first token, which draws attention from "
        "everywhere, is apart.",
        "Where a dot lies to the right of its grey tick, a key at that distance does more than the same attention with "
        "the slopes of other positions.",
        interval="Whiskers",
        control="Grey ticks",
        claims=("influence is near",),
    ),
    Drawing(
        "names",
        "influence_words",
        {},
        "Which named tokens the heads need",
        names,
        "The named tokens' share of all |E|: of the keys that lie there, of all heads and queries.",
        "A dot right of its grey mark: for this answer these keys do more than the same attention with the slopes of "
        "other positions.",
        interval="Whiskers",
        control="Grey ticks",
    ),
    Drawing(
        "calibration",
        "calibration",
        {},
        "How far the first order can be trusted",
        calibration,
        "Over layers, of one entry each: correlation of the estimated change with that by masking for real, and the "
        "slope of the real change on the estimate.",
        "1 is a perfect estimate. The control is the estimate of the next layer in its place.",
        interval="Whiskers",
        control="Grey ticks",
        claims=("first order is enough",),
    ),
    Drawing(
        "interaction",
        "interaction",
        {},
        "What picture and question say only together",
        interaction,
        "Log-probability of a word with picture and question, minus without the one, minus without the other, plus "
        "without both, at the answer's first token.",
        "Right of 0: neither alone says it as much. As far right for a wrong answer, it is no answer that they make.",
        interval="Whiskers",
        select=lambda rows: rows[rows["unit"] == "nats"],
        claims=("picture and question together",),
    ),
    Drawing(
        "masked",
        "masked",
        {},
        "Estimates beside real masking, entry by entry",
        masked,
        "Each point: one key of one head at one position, masked for real, against its first-order estimate.",
        "On the dashed line the estimate is exact. Where attention (see the table) is near 1, masking is no small "
        "change.",
        "estimates",
        claims=("first order is to scale",),
    ),
    Drawing(
        "heads",
        "influence_heads",
        {"measure": "influence"},
        "How much each head's reading does",
        heads,
        "Σ |E| over all keys of a head.",
        "Bright: masking what the head reads changes the answer's lead much, one way or the other.",
        "by head",
    ),
    Drawing(
        "first",
        "influence_heads",
        {"measure": "the first token"},
        "Heads that need the first token",
        heads,
        "The first token's share of each head's |E|.",
        "Bright: what would matter most is that the first token takes no attention from the others.",
        "by head",
    ),
    Drawing(
        "reach",
        "influence_heads",
        {"measure": "reach"},
        "How far each head's reading reaches",
        heads,
        "Mean distance of what a head needs, weighted by |E| and without the first token, in doublings: 0 its own "
        "position, 1 the one before, 4 eight to fifteen back.",
        "",
        "by head",
    ),
    Drawing(
        "roles",
        "influence_roles",
        {},
        "Which tokens need which",
        roles,
        "Share of all |E|, over layers and heads, of the queries of a role (left of the arrow) at the keys of a role.",
        "",
        "by role",
        interval="Whiskers",
        control="Grey ticks",
    ),
    Drawing(
        "steps",
        "interaction",
        {},
        "Interaction while the answer is written",
        steps,
        "The same at every token of the answer.",
        "",
        "steps",
        interval="Bands",
        select=lambda rows: rows[rows["unit"] == "nats"],
    ),
]
