"""Planted rows of neurons: labels with neurons of their own, at the ends, that their texts need; and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.neurons import neurons
from crosslens.analyses.neurons._counts import IMAGE, KEYS, PREFIXES, QUERIES, TEXT, TOWER
from crosslens.analyses.neurons._removal import HOW

from ...helpers.makers import tables_from
from . import rows_of

N, FOLDS, LAYERS, WIDTH, OWN = 60, 12, 8, 200, 18
SHAPE = (FOLDS, LAYERS, WIDTH)
LABELS = ("code", "French", "prose")
TOKENS, DOCUMENTS = 200.0, 10.0
PICTURES = {"neurons of one kind of picture": TOWER, "image tokens of one kind": IMAGE}
CHANNELS = "channels at the ends"


def places(ends: bool) -> list[list[tuple[int, int]]]:
    """The neurons of each label, four fifths of them in the outer layers, or in the inner ones."""
    outer, inner = (0, 1, LAYERS - 2, LAYERS - 1), (2, 3, 4, 5)
    many, few = (outer, inner) if ends else (inner, outer)
    return [[((few if k % 5 == 0 else many)[k % 4], 20 * i + k) for k in range(OWN)] for i in range(len(LABELS))]


def learned(ends: bool = True, beside: Sequence[str] = (), outer: bool = True) -> dict[str, Any]:
    """beside: parts of the model besides the decoder's words. outer: whether the channels lie at the ends."""
    return {"labels": LABELS, **_chosen(ends), "beside": {part: _beside(part, outer) for part in beside}}


def _beside(part: str, outer: bool) -> dict[str, Any]:
    return {"always": places(outer)} if part in (QUERIES, KEYS) else _chosen(True)


def _chosen(ends: bool) -> dict[str, Any]:
    specific = places(ends)
    random = [[(layer, neuron + 80) for layer, neuron in own] for own in specific]
    known = {"specific": specific, "means": [[0.1] * OWN] * len(LABELS), "random": [random] * 2, "always": specific}
    return known | {"cards": [[[1.0, 2.0, [], []]] * OWN] * len(LABELS)}


LEARNED = learned()


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    if name in PICTURES:
        return tables_of(beside=(TOWER, IMAGE), own_of={PICTURES[name]: 0.9 if holds else 0.3})
    if name == CHANNELS:
        return of_channels(holds)
    return tables_of(
        own=0.3 if wrong == "neurons of one label" else 0.9,
        ends=wrong != "at the ends",
        matters=0.25 if wrong == "important to one label" else 1.0,
        hurts=-1.0 if wrong == "removal hurts its label" else 1.0,
        more=-1.0 if wrong == "a label explains its neurons" else 1.0,
    )


def of_pictures(own: float = 0.9) -> dict[str, pd.DataFrame]:
    return tables_of(beside=(TOWER, IMAGE), own_of={TOWER: own})


def of_channels(outer: bool) -> dict[str, pd.DataFrame]:
    """Channels at the ends, or in the middle as the MLP neurons are."""
    return tables_of(beside=(QUERIES, KEYS), ends=False, outer=outer)


def tables_of(
    *,
    own: float = 0.9,
    ends: bool = True,
    matters: float = 1.0,
    hurts: float = 1.0,
    random: float = 0.0,
    more: float = 1.0,
    any_label: bool = False,
    found: bool = True,
    removed: bool = True,
    beside: Sequence[str] = (),
    own_of: Mapping[str, float] = MappingProxyType({}),
    outer: bool = True,
) -> dict[str, pd.DataFrame]:
    """own: activation probability of a label's neurons on its tokens. ends: where they lie. matters: the share of its
    documents to which they matter. hurts, random: what its texts lose without them, and without random neurons. more:
    what they pass on in its texts; any_label: in all alike. found: whether any are known. removed: whether they were
    removed. beside: further parts of the model; own_of: `own` of these. outer: whether channels lie at the ends.
    """
    rng = np.random.default_rng(0)
    sums = _sums(TEXT, own, ends, matters, rng)
    for part in beside:
        sums |= _sums(part, own_of.get(part, 0.9), outer if part in (QUERIES, KEYS) else True, matters, rng)
    counts = {name: np.full(value.shape, DOCUMENTS) for name, value in sums.items()}
    label = np.arange(N) % len(LABELS)
    cost = 0.1 * rng.random((N, len(LABELS), len(HOW)))
    cost[np.arange(N), label] += (hurts, hurts, random)
    acts = rng.normal(0, 0.2, (N, len(LABELS), OWN))
    if not any_label:
        acts[np.arange(N), label] += more
    values = {"clean": np.full(N, 3.0)} | ({"removed": cost} if removed else {})
    values |= {"acts": acts.reshape(N, -1)} if found else {}
    rows = rows_of(values, 30, label=np.array(LABELS)[label])
    folds = pd.DataFrame({"condition": "no BOS", "fold": range(FOLDS)})
    known = learned(ends, beside, outer)
    if not found:
        empty: list[list[Any]] = [[]] * len(LABELS)
        known |= {"specific": empty, "random": [empty], "always": empty, "cards": empty}
    return tables_from(neurons, replace(rows, folds=folds, sums=sums, counts=counts), **known)


def _sums(part: str, own: float, ends: bool, matters: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The sums of one part of the model by fold."""
    sums, prefix = {}, PREFIXES[part]
    for i, mine in enumerate(places(ends)):
        probability = 0.3 + 0.02 * rng.random(SHAPE)
        # Active in some documents of any label: what permuted labels take for specific.
        probability[:, 2:6, 150:] = rng.choice((0.1, 0.95), (FOLDS, 4, WIDTH - 150))
        important = DOCUMENTS * 0.4 * rng.random(SHAPE)
        for j, other in enumerate(places(ends)):
            for layer, neuron in other:
                noise = 0.09 * rng.random(FOLDS)
                probability[:, layer, neuron] = (own if i == j or own < 0.5 else 0.1) - noise
        for layer, neuron in mine:
            important[:, layer, neuron] = DOCUMENTS * (matters - 0.05 * rng.random(FOLDS))
        sums |= {f"{prefix}active|{i}": TOKENS * probability, f"{prefix}important|{i}": important}
        sums[f"{prefix}tokens|{i}"] = np.full((FOLDS, LAYERS), TOKENS)
    return sums if part in (TEXT, TOWER, IMAGE) else {n: v for n, v in sums.items() if "active" not in n}
