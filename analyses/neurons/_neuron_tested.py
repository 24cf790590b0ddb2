"""The numbers of the claims about neurons, each with its margin over a control; folds of documents are the groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import MLP_NEURONS, NEURONS, PERMUTED_IN_FOLDS
from ..common.frames import mean_of_present
from ..common.labels import label_column
from ..common.tested import nothing, number
from ._counts import IMAGE, KEYS, QUERIES, TEXT, TOWER
from ._explained import explains
from ._statistics import (
    Array,
    apart,
    at_ends,
    by_folds,
    ends_by_chance,
    important_apart,
    important_more,
    outer_share,
    permuted_mean,
)
from ._units import Units, of_part, units_of

LACKING = "a label has no tokens here"
NO_REMOVAL = "no neuron was removed (--neurons.removal)"
NO_PICTURES = "not every label has pictures, or the model has no such neurons"
NO_CHANNELS = "channels were not measured (--neurons.channels)"
OF_TEXT = ("neurons of one label", "at the ends", "important to one label")
OF_PICTURES = {"neurons of one kind of picture": TOWER, "image tokens of one kind": IMAGE}


def tested(rows: Rows, how: How) -> pd.DataFrame:
    units, learned = units_of(rows, how), how.learned
    if TEXT in units:
        text = units[TEXT]
        parts = [*_one_label(text, learned, OF_TEXT[0]), *_ends(text, how), *_important(text, how)]
    else:
        parts = [nothing(claim, LACKING) for claim in OF_TEXT]
    for claim, part in OF_PICTURES.items():
        there = part in units and part in learned.beside
        own = of_part(learned, part)
        parts += _one_label(units[part], own, claim) if there else [nothing(claim, NO_PICTURES)]
    more = (*_channels(units, learned), *_hurts(rows, how), *explains(rows, how))
    return pd.concat([*parts, *more], ignore_index=True)


def _with_chance(row: pd.DataFrame, chance: float) -> list[pd.DataFrame]:
    """The row, and its margin over what permuted labels give."""
    less = {name: row[name] - chance for name in ("value", "lower", "upper")}
    return [row, row.assign(than=PERMUTED_IN_FOLDS, **less)]


def _row(units: Units, claim: str, statistic: Callable[[Array], Any], unit: str, than: str = "") -> pd.DataFrame:
    return by_folds(units, statistic, {}, unit, claim=claim, than=than, untestable="")


def _one_label(units: Units, learned: Any, claim: str) -> list[pd.DataFrame]:
    own, random = learned.specific, learned.random
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


def _channels(units: dict[str, Units], learned: Any) -> list[pd.DataFrame]:
    """Of what channels of queries and keys matter more to the texts of their label by, the share in the outer half of
    the layers; beside that of the MLP's neurons that were chosen alike.
    """
    claim, unit = "channels at the ends", "share of the difference"
    if QUERIES not in learned.beside or QUERIES not in units:
        return [nothing(claim, NO_CHANNELS)]
    own = {part: of_part(learned, part).always for part in (TEXT, QUERIES, KEYS)}
    if units[QUERIES].important.shape[1] < 4 or not any(map(len, (*own[QUERIES], *own[KEYS]))):
        return [nothing(claim, "fewer than 4 layers, or no channel matters to nearly all texts of one label alone")]

    def outer(weights: Array) -> float:
        queries, keys = (important_more(units[part], own[part], weights) for part in (QUERIES, KEYS))
        return outer_share(queries + keys)

    def beside(weights: Array) -> float:
        return outer(weights) - outer_share(important_more(units[TEXT], own[TEXT], weights))

    return [
        _row(units[QUERIES], claim, outer, unit),
        _row(units[QUERIES], claim, beside, unit, MLP_NEURONS),
    ]


def _hurts(rows: Rows, how: How) -> list[pd.DataFrame]:
    """Each text's loss without the neurons of its label minus the mean of those without another label's."""
    claim, labels = "removal hurts its label", list(how.learned.labels)
    if "removed" not in rows.values:
        return [nothing(claim, NO_REMOVAL)]
    removed, own = rows["removed"], label_column(rows, how.options.by)[:, None] == np.array(labels)
    if not own.any() or np.isnan(removed[..., 0]).all():
        return [nothing(claim, "no neuron is specific to a label")]
    groups, unit = rows.examples["group"], "nats a token"
    other = np.where(own[..., None], np.nan, removed)
    more = np.where(own[..., None], removed, 0).sum(1) - mean_of_present(other, 1)
    return [
        number(claim, more[:, 0], groups, unit),
        number(claim, more[:, 0] - more[:, 2], groups, unit, than=NEURONS),
    ]
