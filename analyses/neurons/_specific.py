"""Which neurons are specific to a label (LAPE), their twins that are not, and the same of permuted labels."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .. import metrics

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
