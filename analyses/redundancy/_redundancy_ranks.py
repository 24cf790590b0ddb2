"""Cheap numbers of layers against what leaving them out costs: rank correlations, entropies of the last features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.agreement import spearman
from ._importance import KINDS

ORTHOGONAL = "an orthogonal update of equal norm"
PREDICTORS = ("1 − cos", ORTHOGONAL, "depth, the deepest first")
RANKS = "rank correlation"
DRAWS = 400
Array = np.ndarray[Any, Any]


def cost_of(rows: Rows, name: str) -> Array:
    """Loss more than clean, [n, layers]."""
    return rows[name][..., 0] - rows["clean"][:, None, 0]


def cells_of(rows: Rows, kinds: tuple[str, ...]) -> Array:
    """[n, 4, cells]: what PREDICTORS say, and what leaving the module out costs, of the modules that there are."""
    found = []
    for kind in kinds:
        own, cost = rows["turned"][:, :, KINDS.index(kind)], cost_of(rows, f"skip|{kind}")
        depth = np.broadcast_to(-np.arange(cost.shape[1], dtype=float), cost.shape)
        found.append(np.stack([own[..., 0], own[..., 1], depth, cost], 1))
    cells = np.concatenate(found, 2)
    return cells[:, :, without_nan(cells, 2)]


def without_nan(values: Array, axis: int) -> Array:
    """Which cells of an axis have all their numbers, Bool[cells]: layers that have the module."""
    return np.array(~np.isnan(np.moveaxis(values, axis, 0)).reshape(values.shape[axis], -1).any(1))


def counts_of(rows: Rows) -> dict[str, int]:
    return {"n": len(rows.examples), "n_groups": rows.examples["group"].nunique()}


def estimated(
    values: Array, rows: Rows, statistic: Callable[[Array], Array], draws: int = DRAWS
) -> list[dict[str, float]]:
    """value, lower, upper of each number that `statistic` makes of means."""
    found = stats.bootstrap_statistic(values, rows.examples["group"], statistic, n_boot=draws)
    return [dict(zip(("value", "lower", "upper"), map(float, one), strict=True)) for one in zip(*found, strict=True)]


def predictions(rows: Rows, how: How) -> pd.DataFrame | None:
    """Rank correlation over layers of what is cheap to know with what leaving a module out costs."""
    frames = []
    every = {kind: (kind,) for kind in KINDS} | {"attention and MLP": ("attention", "MLP")}
    for part, kinds in every.items():
        if all(f"skip|{kind}" in rows.values for kind in kinds):
            cells = cells_of(rows, kinds)
            found = estimated(cells, rows, lambda m: np.array([spearman(one, m[-1]) for one in m[:-1]]))
            for one, name in zip(found, PREDICTORS, strict=True):
                told = {"part": part, "predictor": name, "control": "" if name == PREDICTORS[0] else name}
                frames.append(told | one | {"unit": RANKS} | counts_of(rows))
    return pd.DataFrame(frames) if frames else None


def moments_of(rows: Rows, name: str) -> Array | None:
    """[n, 1 + layers, 2, d]: the last features and their squares, clean first."""
    if f"features|{name}" not in rows.values:
        return None
    both = np.concatenate([rows["features"][:, None], rows[f"features|{name}"]], 1).astype(float)
    both -= rows["features"].mean(0)  # squares of what is left lose no digits
    return np.stack([both, both**2], 2)


def entropy_changes(mean: Array) -> Array:
    """|Δ entropy| of each layer: `metrics.transfer_entropy` from Σx and Σx²."""
    spread = np.maximum(mean[:, 1] - mean[:, 0] ** 2, np.finfo(float).tiny)
    entropy = 0.5 * np.log(spread).sum(-1)
    return np.abs(entropy[1:] - entropy[0])


def transfer(rows: Rows, name: str) -> stats.Estimate | None:
    """Transfer entropy of each layer's attention, nats, with an interval by groups; NaN in layers without. None with
    fewer than three examples.
    """
    moments = moments_of(rows, name)
    if moments is None or len(moments) < 3:
        return None
    there = without_nan(moments, 1)
    found = stats.bootstrap_statistic(moments[:, there], rows.examples["group"], entropy_changes, n_boot=100)
    whole = [np.full(len(there) - 1, np.nan) for _ in found]
    for one, values in zip(whole, found, strict=True):
        one[there[1:]] = values
    return stats.Estimate(*whole)
