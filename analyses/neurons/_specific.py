"""Which neurons are specific to a label (LAPE), their twins that are not, and the same of permuted labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...probes.runs.results import Rows
from .. import metrics
from ._counts import COUNTED

Array = NDArray[Any]
Neuron = tuple[int, int]
NEARLY = 0.95  # of a label's texts
ALIKE = 20  # a twin is drawn from so many neurons of the layer, those nearest in how often they are active


def specific(probability: Tensor, share: float, rate: float, bar: float | None = None) -> list[list[Neuron]]:
    """For each label its specific neurons (layer, neuron), lowest entropy first; one may have several labels or none.

    probability [layer, n, label]; layers without neurons are NaN. bar: of those that would be chosen, the ones whose
    entropy is no larger.
    """
    known = probability.nan_to_num()
    chosen = metrics.specific_neurons(known, share=share, filter_rate=rate)
    if bar is not None:
        chosen = chosen[metrics.group_entropy(known[chosen[:, 0], chosen[:, 1]]) <= bar]
    belongs = metrics.neuron_groups(known, chosen, bar_rate=rate)
    return [[(int(a), int(b)) for a, b in chosen[own]] for own in belongs.T]


def of_one_label(important: Tensor) -> list[list[Neuron]]:
    """For each label the neurons that matter to nearly all of its texts, and to nearly all of no other's.

    important [layer, n, label]: the share of texts.
    """
    nearly = important >= NEARLY
    alone = nearly & (nearly.sum(-1, keepdim=True) == 1)
    return [[(int(a), int(b)) for a, b in own.nonzero()] for own in alone.unbind(-1)]


def entropy_bar(probability: Tensor, share: float, rate: float) -> float:
    """The largest entropy among the chosen neurons; −∞ where none is."""
    known = probability.nan_to_num()
    chosen = metrics.specific_neurons(known, share=share, filter_rate=rate)
    entropies = metrics.group_entropy(known[chosen[:, 0], chosen[:, 1]])
    return float(entropies.max()) if len(entropies) else float("-inf")


def twins(probability: Tensor, chosen: list[list[Neuron]], draw: int) -> list[list[Neuron]]:
    """For each label as many random neurons of the same layers and of like activity, specific to no label."""
    total, rng, found = probability.sum(-1).numpy(), np.random.default_rng(draw), []
    taken = np.zeros(total.shape, bool)
    for own in chosen:
        for layer, neuron in own:
            taken[layer, neuron] = True
    for own in chosen:
        used = taken.copy()
        for layer, neuron in own:
            apart = np.where(used[layer], np.inf, np.abs(total[layer] - total[layer, neuron]))
            free = np.argsort(apart, kind="stable")[: min(ALIKE, int((~used[layer]).sum()))]
            if len(free):
                used[layer, rng.choice(free)] = True
        found.append([(int(a), int(b)) for a, b in np.argwhere(used & ~taken)])
    return found


class Units:
    """The sums of a run by fold and label, so that they can be weighted, left out and given other labels.

    active, important [unit, layer, n]; tokens, documents [unit]; fold, label Int[unit].
    """

    def __init__(self, rows: Rows, n_labels: int) -> None:
        parts: dict[str, list[Array]] = {name: [] for name in (*COUNTED, "documents")}
        places = []
        for i in range(n_labels):
            if f"tokens|{i}" not in rows.sums:
                continue
            tokens = rows.sums[f"tokens|{i}"].max(1)
            for f in np.flatnonzero(tokens > 0):
                places.append((f, i))
                parts["tokens"].append(tokens[f])
                parts["documents"].append(rows.counts[f"important|{i}"][f].max())
                for name in ("active", "important"):
                    parts[name].append(rows.sums[f"{name}|{i}"][f])
        self.n_labels, self.n_examples = n_labels, len(rows.examples)
        self.fold, self.label = np.array(places, int).reshape(-1, 2).T
        self.active, self.important = (np.array(parts[name]) for name in ("active", "important"))
        self.tokens, self.documents = (np.array(parts[name], float) for name in ("tokens", "documents"))

    @property
    def whole(self) -> bool:
        """Whether every label has tokens."""
        return len({*self.label.tolist()}) == self.n_labels

    def probability(self, weights: Array | None = None, label: Array | None = None) -> Tensor:
        """[layer, n, label]: share of a label's tokens that activate a neuron. weights: of the folds."""
        return torch.from_numpy(self._share(self.active, self.tokens, weights, label))

    def important_share(self, weights: Array | None = None, label: Array | None = None) -> Array:
        """[layer, n, label]: share of a label's documents that a neuron matters to."""
        return self._share(self.important, self.documents, weights, label)

    def _share(self, sums: Array, of: Array, weights: Array | None, label: Array | None) -> Array:
        label = self.label if label is None else label
        weight = np.ones(len(label)) if weights is None else weights[self.fold]
        member = (np.arange(self.n_labels)[:, None] == label) * weight
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.tensordot(member, sums, 1).transpose(1, 2, 0) / (member @ of)

    def permuted(self, draws: int) -> Iterator[Array]:
        """Other labels for the units: those of a fold among themselves."""
        rng = np.random.default_rng(0)
        for _ in range(draws):
            label = self.label.copy()
            for fold in np.unique(self.fold):
                mine = self.fold == fold
                label[mine] = rng.permutation(label[mine])
            yield label
