"""The numbers of the claims about neurons, each with its margin over a control; folds of documents are the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common import resampling
from ..common.controls import NEURONS, PERMUTED_IN_FOLDS
from ..common.frames import mean_of_present, places
from ..common.tested import nothing, number
from ._explained import explains, label_column
from ._specific import Neuron, Units, specific

Array = NDArray[Any]
PERMUTATIONS = 20
ENDS = ("first quarter", "last quarter")  # of the layers
LEVEL = 0.95
DRAWS = 200  # of the bootstrap, where there are as many folds as it needs
LACKING = "a label has no tokens here"
NO_REMOVAL = "no neuron was removed (--neurons.removal)"


def by_folds(
    units: Units, statistic: Callable[[Array], Array], axes: Mapping[str, Sequence[Any]], unit: str, **columns: Any
) -> pd.DataFrame:
    """One row a cell of `statistic(weights of the folds)`, with its interval over folds."""
    folds, shape = int(units.fold.max()) + 1, tuple(len(labels) for labels in axes.values())
    present = np.ones((folds, int(np.prod(shape))), bool)
    found = resampling.interval(
        lambda weights: np.stack([np.asarray(statistic(one), float).ravel() for one in weights]),
        present,
        n_boot=DRAWS,
        seed=0,
        level=LEVEL,
    )
    measured = dict(zip(("value", "lower", "upper"), found, strict=True))
    return pd.DataFrame(
        {**places(axes, shape), **measured, "n": units.n_examples, "n_groups": folds, "unit": unit, **columns}
    )


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
    values = units.probability(weights).numpy()
    more = np.zeros(units.active.shape[1])
    for i, own in enumerate(chosen):
        for layer, neuron in own:
            shares = values[layer, neuron]
            more[layer] += shares[i] - np.delete(shares, i).mean()
    return _quarters(more)


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


def _over_others(values: Array, chosen: Sequence[Sequence[Neuron]]) -> Array:
    found = np.full(values.shape[-1], np.nan)
    for i, own in enumerate(chosen):
        if len(own):
            shares = values[tuple(np.array(own).T)]
            found[i] = (shares[:, i] - np.delete(shares, i, 1).mean(1)).mean()
    return found


def tested(rows: Rows, how: How) -> pd.DataFrame:
    units = Units(rows, len(how.learned.labels))
    if units.whole:
        parts = [*_one_label(units, how), *_ends(units, how), *_important(units, how)]
    else:
        parts = [nothing(claim, LACKING) for claim in ("neurons of one label", "at the ends", "important to one label")]
    return pd.concat([*parts, *_hurts(rows, how), *explains(rows, how)], ignore_index=True)


def _with_chance(row: pd.DataFrame, chance: float) -> list[pd.DataFrame]:
    """The row, and its margin over what permuted labels give."""
    less = {name: row[name] - chance for name in ("value", "lower", "upper")}
    return [row, row.assign(than=PERMUTED_IN_FOLDS, **less)]


def _row(units: Units, claim: str, statistic: Callable[[Array], Any], unit: str, than: str = "") -> pd.DataFrame:
    return by_folds(units, statistic, {}, unit, claim=claim, than=than, untestable="")


def _one_label(units: Units, how: How) -> list[pd.DataFrame]:
    claim, own, random = "neurons of one label", how.learned.specific, how.learned.random
    if not any(map(len, own)):
        return [nothing(claim, "no neuron is specific to a label")]

    def beside(weights: Array) -> float:
        twins = np.nanmean([apart(units, draw, weights) for draw in random])
        return float(np.nanmean(apart(units, own, weights)) - twins)

    return [
        _row(units, claim, lambda w: np.nanmean(apart(units, own, w)), "share of tokens"),
        _row(units, claim, beside, "share of tokens", NEURONS),
    ]


def _ends(units: Units, how: How) -> list[pd.DataFrame]:
    claim, own, unit = "at the ends", how.learned.specific, "share of the difference"
    if units.active.shape[1] < 4 or not any(map(len, own)):
        return [nothing(claim, "fewer than 4 layers, or no neuron is specific to a label")]
    chance = ends_by_chance(units, how.options).min()
    return _with_chance(_row(units, claim, lambda w: at_ends(units, own, w).min(), unit), chance)


def _important(units: Units, how: How) -> list[pd.DataFrame]:
    claim, own, unit = "important to one label", how.learned.always, "share of texts"
    if not any(map(len, own)):
        return [nothing(claim, "no neuron matters to nearly all texts of one label alone")]
    chance = float(np.nanmean(permuted_mean(units, lambda label: important_apart(units, own, None, label))))
    return _with_chance(_row(units, claim, lambda w: np.nanmean(important_apart(units, own, w)), unit), chance)


def _hurts(rows: Rows, how: How) -> list[pd.DataFrame]:
    """Each text's loss without the neurons of its label minus the mean of those without another label's."""
    claim, labels = "removal hurts its label", list(how.learned.labels)
    if "removed" not in rows.values:
        return [nothing(claim, NO_REMOVAL)]
    removed, own = rows["removed"], label_column(rows)[:, None] == np.array(labels)
    if not own.any() or np.isnan(removed[..., 0]).all():
        return [nothing(claim, "no neuron is specific to a label")]
    groups, unit = rows.examples["group"], "nats a token"
    other = np.where(own[..., None], np.nan, removed)
    more = np.where(own[..., None], removed, 0).sum(1) - mean_of_present(other, 1)
    return [
        number(claim, more[:, 0], groups, unit),
        number(claim, more[:, 0] - more[:, 2], groups, unit, than=NEURONS),
    ]
