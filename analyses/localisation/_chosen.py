"""The rows that are scored, and the layer that a method chooses on one half of the groups."""

from __future__ import annotations

import numpy as np

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.controls import BOX, HEADS, PERMUTED, QUESTION
from ..common.selection import measured_rows
from ._attention_maps import ALL, ATTENTION, CONTRAST, FUSION, GAZE, GRADIENT, RELATIVE
from ._rows import CHANGED, GENERAL, LARGEST, LEFT, MIXED, WORDS
from ._scoring import CENTRE, GAUSSIAN, SCORES
from ._state_maps import LENS, MAGNITUDE, PHASE, RAW, TAM

LOOKS = (ATTENTION, RELATIVE, CONTRAST, FUSION, GAZE, GRADIENT)
BY_LAYER = (*LOOKS, LENS, TAM, RAW, MAGNITUDE, PHASE)
CONTROLS = (BOX, QUESTION, GENERAL, MIXED, LEFT, CHANGED, WORDS, HEADS, ALL, LARGEST, CENTRE, GAUSSIAN, PERMUTED)
RATIO, IOU, AUROC = (SCORES.index(name) for name in ("attention ratio", "IoU", "AUROC"))


def scored(rows: Rows, how: How) -> Rows:
    """The examples that have a box, of groups that no head was chosen on."""
    left = measured_rows(rows, how.learned.selected_on, "localisation")
    left = left.where(left["scored"] > 0)
    if left.examples.empty:
        raise NothingToMeasure(
            f"localisation: no example has one picture of known geometry and exactly one box {how.options.asked!r}"
        )
    return left


def there(rows: Rows, method: str) -> list[tuple[str, np.ndarray]]:
    """The controls of a method that were measured, "" (itself) first, with their values [n, layers, scores]."""
    return [(c, rows[f"{method}|{c}"]) for c in ("", *CONTROLS) if f"{method}|{c}" in rows.values]


def choice(rows: Rows, name: str) -> tuple[int, np.ndarray]:
    """The layer of best AUROC on one half of the groups, and the other half."""
    found, half = stats.chosen_on(rows[name][..., AUROC], rows.examples["group"].to_numpy(), best)
    return int(found), half


def best(some: np.ndarray) -> int:
    """The layer of largest mean, of those that have a number."""
    return int(np.nan_to_num(mean_of(some, 0), nan=-np.inf).argmax())


def mean_of(values: np.ndarray, axis: int) -> np.ndarray:
    """Of what is there, NaN of nothing."""
    there = ~np.isnan(values)
    return np.nansum(values, axis) / np.where(there.any(axis), there.sum(axis), np.nan)
