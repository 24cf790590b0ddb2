"""Numbers of single entries: influence by distance, and how far estimates agree with masking."""

from __future__ import annotations

import numpy as np

from ...probes.runs.results import Rows
from ._influence import BINS

SHUFFLED = "slopes of other positions"
NEXT = "the next layer's estimate"
FIRST = "the first token"
DISTANCES = ("0", "1", *(f"{2**i}–{2 ** (i + 1) - 1}" for i in range(1, BINS - 2)), f"{2 ** (BINS - 2)}+", FIRST)


def per_entry(rows: Rows, name: str, heads: int = 1) -> np.ndarray:
    """Mean |E| of an entry at each distance, [n, layer, (h,) BINS]; NaN where there is no such distance."""
    values = rows[name]
    entries = rows["influence|entries"].reshape(len(values), *[1] * (values.ndim - 2), -1) * heads
    return np.divide(values, entries, out=np.full(values.shape, np.nan), where=entries > 0)


def _centred(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    known = ~(np.isnan(values) | np.isnan(other))
    count = np.maximum(known.sum(1, keepdims=True), 1)
    kept = np.where(known, values, 0.0)
    return np.where(known, kept - kept.sum(1, keepdims=True) / count, 0.0)


def agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation over layers of each example, [n]."""
    x, y = _centred(a, b), _centred(b, a)
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), size, out=np.full(len(x), np.nan), where=size > 0)


def of_next_layer(values: np.ndarray) -> np.ndarray:
    """Each layer's number in the place of the one before that has one, example by example."""
    moved = values.copy()
    for row in moved:
        known = ~np.isnan(row)
        row[known] = np.roll(row[known], 1)
    return moved


def slope(exact: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Of the exact change on the estimate, through 0, [n]."""
    there = ~(np.isnan(exact) | np.isnan(estimate))
    a, b = np.where(there, exact, 0.0), np.where(there, estimate, 0.0)
    size = (b**2).sum(1)
    return np.divide((a * b).sum(1), size, out=np.full(len(a), np.nan), where=size > 0)
