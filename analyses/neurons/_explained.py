"""How far a label explains a neuron (SASC's score): what it passes on in the label's texts, less that in all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How, Rows
from ..common import resampling
from ..common.controls import PERMUTED_LABELS, permuted_labels
from ..common.frames import mean_of_present
from ..common.labels import label_column
from ..common.places import text_without_first
from ..common.stats import quotient
from ..common.tested import nothing
from ._contexts import Card

Array = NDArray[Any]
CLAIM = "a label explains its neurons"
UNIT = "σ"
LEVEL, BOOT, PERMUTATIONS = 0.95, 2000, 20


def shown(learned: Any) -> list[tuple[int, int, int, Card]]:
    """(label, layer, neuron, card) of every neuron that has a card, labels in order; one may be of several labels."""
    return [
        (i, layer, neuron, Card(*card))
        for i, (own, cards) in enumerate(zip(learned.specific, learned.cards, strict=False))
        for (layer, neuron), card in zip(own, cards, strict=False)
    ]


def mean_acts(layer: Layer, batch: Batch, learned: Any) -> dict[str, Tensor | None]:
    """ "acts" [b, shown]: of each shown neuron of this layer the mean over the tokens that are counted, turned to its
    side; 0 for those of other layers, NaN without tokens. Nothing where no neuron is shown.
    """
    neurons = shown(learned)
    if not neurons:
        return {}
    kept = text_without_first(batch).to(layer.resid_pre.device)
    found = torch.zeros(len(kept), len(neurons), device=kept.device)
    own = [i for i, (_, at, _, _) in enumerate(neurons) if at == layer.index]
    if own:
        acts = layer["mlp_post"][..., [neurons[i][2] for i in own]].float()
        side = torch.tensor([neurons[i][3].side for i in own], device=kept.device)
        found[:, own] = side * (kept.float()[:, None] @ acts)[:, 0] / kept.sum(1, keepdim=True)
    return {"acts": found}


class Scores:
    """Sums of what neurons pass on, in σ, by group and label, so that groups can be weighted and labels exchanged.

    responses: [n, shown]; of the examples that have any. label: of each example, a number; −1 without.
    """

    def __init__(self, rows: Rows, how: How) -> None:
        self.labels = list(how.learned.labels)
        neurons = shown(how.learned)
        self.own = np.array([i for i, _, _, _ in neurons])
        acts = rows["acts"] / np.array([card.spread if card.spread > 0 else np.nan for *_, card in neurons])
        self.explained = np.isfinite(acts).any(0)
        there = np.isfinite(acts[:, self.explained]).all(1)
        numbers = {name: i for i, name in enumerate(self.labels)}
        label = np.array([numbers.get(name, -1) for name in label_column(rows, how.options.by)])
        there &= label >= 0
        self.responses, self.label = acts[there], label[there]
        self.groups = rows.examples["group"].to_numpy()[there]

    @property
    def whole(self) -> bool:
        """Whether every label has texts, and some neuron a score."""
        return bool(self.explained.any()) and len({*self.label.tolist()}) == len(self.labels)

    def by_neuron(self) -> Array:
        """[n, shown]"""
        return self.responses

    def by_label(self) -> Array:
        """[n, label]: the mean over a label's neurons; NaN where it has none."""
        found = np.full((len(self.responses), len(self.labels)), np.nan)
        for i in range(len(self.labels)):
            mine = self.responses[:, (self.own == i) & self.explained]
            if mine.shape[1]:
                found[:, i] = mine.mean(1)
        return found

    def interval(self, values: Array, finish: Any = lambda scores: scores) -> tuple[Array, Array, Array]:
        """(value, lower, upper), each of the shape of `finish` of scores [cells, label], over groups."""
        sums, counts = _sums(values, self.label, self.groups, len(self.labels))

        def statistic(weights: Array) -> Array:
            return np.stack([np.ravel(finish(_scores(sums, counts, one))) for one in weights])

        shape = np.shape(finish(_scores(sums, counts, np.ones(len(counts)))))
        present = np.ones((len(counts), int(np.prod(shape))), bool)
        value, lower, upper = resampling.interval(statistic, present, n_boot=BOOT, seed=0, level=LEVEL)
        return value.reshape(shape), lower.reshape(shape), upper.reshape(shape)

    def permuted(self, values: Array, finish: Any = lambda scores: scores) -> Array:
        """The mean of the same over labels permuted over groups."""
        found = []
        for draw in range(PERMUTATIONS):
            label = permuted_labels(self.label, self.groups, draw)
            sums, counts = _sums(values, label, self.groups, len(self.labels))
            found.append(finish(_scores(sums, counts, np.ones(len(counts)))))
        return np.mean(found, 0)


def _sums(values: Array, label: Array, groups: Array, n_labels: int) -> tuple[Array, Array]:
    """[group, label, cell] and the texts of each [group, label]."""
    _, place = np.unique(groups, return_inverse=True)
    sums, counts = np.zeros((place.max() + 1, n_labels, values.shape[1])), np.zeros((place.max() + 1, n_labels))
    np.add.at(sums, (place, label), values)
    np.add.at(counts, (place, label), 1)
    return sums, counts


def _scores(sums: Array, counts: Array, weights: Array) -> Array:
    """[cell, label]: the mean over the texts of a label minus that over all others (`metrics.explanation_score`)."""
    total, texts = np.tensordot(weights, sums, 1).T, weights @ counts
    others, other_texts = total.sum(1, keepdims=True) - total, texts.sum() - texts
    return quotient(total, texts) - quotient(others, other_texts)


def diagonal(scores: Array) -> Array:
    """Of scores [label, explanation]: the mean of the own labels minus the mean of all others, where there are any."""
    own = np.eye(len(scores), dtype=bool)
    return np.asarray(mean_of_present(scores[own]) - mean_of_present(scores[~own]))


def explains(rows: Rows, how: How) -> list[pd.DataFrame]:
    """The number of the claim, and its margin over permuted labels."""
    if "acts" not in rows.values:
        return [nothing(CLAIM, "no neuron is specific to a label")]
    scores = Scores(rows, how)
    if not scores.whole:
        return [nothing(CLAIM, "a label has no texts here, or no neuron that responds")]
    values = scores.by_label()
    value, lower, upper = scores.interval(values, diagonal)
    chance = scores.permuted(values, diagonal)
    row = {"claim": CLAIM, "untestable": "", "unit": UNIT, "n": len(values), "n_groups": len({*scores.groups})}
    told = {"value": value, "lower": lower, "upper": upper}
    rest = {name: float(number - chance) for name, number in told.items()}
    own = {name: float(number) for name, number in told.items()}
    return [pd.DataFrame([row | {"than": ""} | own]), pd.DataFrame([row | {"than": PERMUTED_LABELS} | rest])]
