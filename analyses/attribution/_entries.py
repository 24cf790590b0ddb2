"""Numbers of single entries: influence by distance, and how far estimates agree with masking."""

from __future__ import annotations

import numpy as np
import torch

from ...probes.runs.results import Rows
from .. import metrics
from ..common.stats import quotient
from ._influence import BINS

SHUFFLED = "slopes of other positions"
NEXT = "the next layer's estimate"
FIRST = "the first token"
DISTANCES = ("0", "1", *(f"{2**i}–{2 ** (i + 1) - 1}" for i in range(1, BINS - 2)), f"{2 ** (BINS - 2)}+", FIRST)


def per_entry(rows: Rows, name: str, heads: int = 1) -> np.ndarray:
    """Mean |E| of an entry at each distance, [n, layer, (h,) BINS]; NaN where there is no such distance."""
    values = rows[name]
    entries = rows["influence|entries"].reshape(len(values), *[1] * (values.ndim - 2), -1) * heads
    return quotient(values, entries)


def agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each example over the layers that have both, [n]."""
    pairs = (torch.from_numpy(np.stack([x, y])[:, ~np.isnan(x + y)]) for x, y in zip(a, b, strict=True))
    return np.array([float(metrics.correlation(*pair)) for pair in pairs])


def of_next_layer(values: np.ndarray) -> np.ndarray:
    """Each layer's number in the place of the one before that has one, example by example."""
    moved = values.copy()
    for row in moved:
        known = ~np.isnan(row)
        row[known] = np.roll(row[known], 1)
    return moved


def slope(exact: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Of the exact change on the estimate, through 0, [n]."""
    there = ~np.isnan(exact + estimate)
    a, b = np.where(there, exact, 0.0), np.where(there, estimate, 0.0)
    return quotient((a * b).sum(1), (b**2).sum(1))
