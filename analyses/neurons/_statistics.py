"""Numbers of a part's neurons by layer and label, each a statistic of its sums; folds of documents are the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..common.frames import by_weights
from ._specific import Neuron, specific
from ._units import Array, Units

PERMUTATIONS = 20
ENDS = ("first quarter", "last quarter")  # of the layers
DRAWS = 200  # of the bootstrap, where there are as many folds as it needs


def by_folds(
    units: Units, statistic: Callable[[Array], Array], axes: Mapping[str, Sequence[Any]], unit: str, **columns: Any
) -> pd.DataFrame:
    """One row a cell of `statistic(weights of the folds)`, with its interval over folds."""
    return by_weights(
        lambda weights: np.stack([np.asarray(statistic(one), float).ravel() for one in weights]),
        int(units.fold.max()) + 1,
        axes,
        unit,
        n=units.n_examples,
        n_boot=DRAWS,
        **columns,
    )


def plain(like: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """The same cells with other numbers, of which there is no interval."""
    return like.assign(value=values.ravel(), lower=np.nan, upper=np.nan)


def permuted_mean(units: Units, statistic: Callable[[Array], Array]) -> Array:
    """The mean of a statistic over permuted labels."""
    return np.mean([statistic(label) for label in units.permuted(PERMUTATIONS)], 0)


def layer_share(
    units: Units, options: Any, weights: Array | None, label: Array | None = None, bar: float | None = None
) -> Array:
    """[layer, label]: share of a layer's neurons that are specific to a label. bar: see `specific`."""
    probability = units.probability(weights, label)
    found = np.zeros((probability.shape[0], units.n_labels))
    for i, own in enumerate(specific(probability, options.share, options.rate, bar)):
        for layer, _ in own:
            found[layer, i] += 1
    return found / probability.shape[1]


def at_ends(units: Units, chosen: Sequence[Sequence[Neuron]], weights: Array | None = None) -> Array:
    """Of what neurons are more active for their own label by, the share in each of ENDS."""
    return _quarters(_more(units.probability(weights).numpy(), chosen))


def ends_by_chance(units: Units, options: Any) -> Array:
    """Of the specific neurons that permuted labels have, the share in each of ENDS."""
    return _quarters(permuted_mean(units, lambda label: layer_share(units, options, None, label)).sum(1))


def _quarters(by_layer: Array) -> Array:
    quarter, whole = max(1, len(by_layer) // 4), by_layer.sum()
    ends = np.array([by_layer[:quarter].sum(), by_layer[-quarter:].sum()])
    return ends / whole if whole else np.full(2, np.nan)


def apart(units: Units, chosen: Sequence[Sequence[Neuron]], weights: Array | None = None) -> Array:
    """[label]: probability in the own label minus the mean of the others, mean over its neurons."""
    return _over_others(units.probability(weights).numpy(), chosen)


def important_apart(
    units: Units, chosen: Sequence[Sequence[Neuron]], weights: Array | None = None, label: Array | None = None
) -> Array:
    """[label]: the same of the share of texts to which they matter."""
    return _over_others(units.important_share(weights, label), chosen)


def important_more(
    units: Units, chosen: Sequence[Sequence[Neuron]], weights: Array | None = None, label: Array | None = None
) -> Array:
    """[layer]: the same, summed over a layer's neurons (or channels) of all labels."""
    return _more(units.important_share(weights, label), chosen)


def _more(values: Array, chosen: Sequence[Sequence[Neuron]]) -> Array:
    """[layer]: Σ over chosen neurons of the own label's value minus the mean of the others'."""
    more = np.zeros(len(values))
    for i, own in enumerate(chosen):
        if len(own):
            layer, neuron = np.array(own).T
            shares = values[layer, neuron]
            np.add.at(more, layer, shares[:, i] - np.delete(shares, i, 1).mean(1))
    return more


def outer_share(by_layer: Array) -> float:
    """The share that the first and the last quarter of the layers hold together."""
    return float(_quarters(by_layer).sum())


def _over_others(values: Array, chosen: Sequence[Sequence[Neuron]]) -> Array:
    found = np.full(values.shape[-1], np.nan)
    for i, own in enumerate(chosen):
        if len(own):
            shares = values[tuple(np.array(own).T)]
            found[i] = (shares[:, i] - np.delete(shares, i, 1).mean(1)).mean()
    return found
