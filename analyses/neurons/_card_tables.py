"""Tables of single neurons: how often each is active and how far each label explains it, its contexts and n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...data.tokens import inside
from ...probes.runs.results import How, Rows
from ..common.controls import PERMUTED_LABELS
from ..common.frames import joined, summarise
from ._contexts import Card
from ._explained import UNIT, Scores, shown

ACTIVE, SCORE = "share of tokens that activate it", "SASC score"
Place = tuple[int, int, str]


def _places(how: How) -> list[Place]:
    """Layer, neuron and label of every neuron that has a card."""
    return [(layer, neuron, how.learned.labels[i]) for i, layer, neuron, _ in shown(how.learned)]


def _explained(rows: Rows, how: How) -> pd.DataFrame | None:
    """Scores of every label, taken as an explanation (texts), for the neurons of every label; and of permuted ones."""
    scores = Scores(rows, how) if "acts" in rows.values else None
    if scores is None or not scores.whole:
        return None
    values = scores.by_label()
    own = _matrix(scores, *scores.interval(values)).assign(control="")
    chance = own.assign(value=scores.permuted(values).ravel(), lower=np.nan, upper=np.nan, control=PERMUTED_LABELS)
    return pd.concat([own, chance], ignore_index=True).dropna(subset="value").reset_index(drop=True)


def _matrix(scores: Scores, value: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> pd.DataFrame:
    labels = np.array(scores.labels)
    names = {"label": np.repeat(labels, len(labels)), "texts": np.tile(labels, len(labels))}
    numbers = {"value": value.ravel(), "lower": lower.ravel(), "upper": upper.ravel()}
    return pd.DataFrame(names | numbers | _counted(scores))


def _counted(scores: Scores) -> dict[str, Any]:
    return {"n": len(scores.label), "n_groups": len({*scores.groups}), "unit": UNIT}


def _cards(rows: Rows, how: How) -> pd.DataFrame | None:
    """Of each shown neuron, for the texts of each label: how often it is active, how far the label explains it."""
    neurons = _places(how)
    parts = [*_active(rows, how, neurons), *_scored(rows, how, neurons)]
    return joined(parts) if parts else None


def _active(rows: Rows, how: How, neurons: Sequence[Place]) -> list[pd.DataFrame]:
    """Folds of documents are the groups."""
    parts = []
    for i, label in enumerate(how.learned.labels):
        if f"tokens|{i}" not in rows.sums or not neurons:
            continue
        tokens, active = (rows.sums[f"{name}|{i}"] for name in ("tokens", "active"))
        mine = active[:, [a for a, _, _ in neurons], [b for _, b, _ in neurons]]
        there = tokens.max(1) > 0
        table = summarise(
            mine[there],
            np.flatnonzero(there),
            {"place": range(len(neurons))},
            "share of tokens",
            denominators=tokens.max(1)[there],
            texts=label,
            measure=ACTIVE,
        )
        parts.append(_placed(table, neurons).assign(n=len(rows.examples)))
    return parts


def _scored(rows: Rows, how: How, neurons: Sequence[Place]) -> list[pd.DataFrame]:
    scores = Scores(rows, how) if "acts" in rows.values else None
    if scores is None or not scores.whole:
        return []
    found = scores.interval(scores.by_neuron())
    parts = []
    for i, label in enumerate(how.learned.labels):
        numbers = dict(zip(("value", "lower", "upper"), (column[:, i] for column in found), strict=True))
        named = {"place": np.arange(len(neurons)), "texts": label, "measure": SCORE}
        parts.append(_placed(pd.DataFrame(named | numbers | _counted(scores)), neurons).dropna(subset="value"))
    return parts


def _placed(table: pd.DataFrame, neurons: Sequence[Place]) -> pd.DataFrame:
    layer, neuron, label = (np.array(column)[table["place"]] for column in zip(*neurons, strict=True))
    return table.drop(columns="place").assign(layer=layer, neuron=neuron, label=label)


def _contexts(rows: Rows, how: How) -> pd.DataFrame | None:
    """Where each shown neuron is largest in the held-out texts, one place in a text."""
    told = []
    for place, card in _with_cards(how):
        for rank, (value, before, *ids) in enumerate(card.contexts, start=1):
            peak, ids = int(before), [int(one) for one in ids]
            pieces = inside(rows.tokenizer, [ids[:peak], ids[peak : peak + 1], ids[peak + 1 :]])
            told.append(place | {"rank": rank, "value": value} | dict(zip(PIECES, pieces, strict=True)))
    return pd.DataFrame(told).assign(unit="activation") if told else None


def _ngrams(rows: Rows, how: How) -> pd.DataFrame | None:
    """The n-grams at whose last token each shown neuron is largest in the held-out texts; n: how often each occurs."""
    told = []
    for place, card in _with_cards(how):
        texts = inside(rows.tokenizer, [[int(one) for one in ids] for _, _, *ids in card.ngrams]) if card.ngrams else []
        for rank, ((value, count, *_), text) in enumerate(zip(card.ngrams, texts, strict=True), start=1):
            told.append(place | {"rank": rank, "value": value, "n": int(count), "ngram": text})
    return pd.DataFrame(told).assign(unit="activation") if told else None


def _with_cards(how: How) -> list[tuple[dict[str, Any], Card]]:
    """Each neuron once, though it may be of several labels."""
    found = {(layer, neuron): card for _, layer, neuron, card in shown(how.learned)}
    return [({"layer": a, "neuron": b, "side": _side(card)}, card) for (a, b), card in found.items()]


def _side(card: Card) -> str:
    return "above 0" if card.side > 0 else "below 0"


PIECES = ("before", "peak", "behind")
CARD_TABLES = {
    "explained": (_explained, ("label", "texts")),
    "cards": (_cards, ("neuron", "label", "texts", "measure")),
}
RUN_TABLES = {
    "contexts": (_contexts, ("neuron", "side", "rank", *PIECES)),
    "ngrams": (_ngrams, ("neuron", "side", "rank", "ngram")),
}
