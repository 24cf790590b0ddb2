"""Numbers that are no means, from sums by fold: about 20 folds of whole groups, taken as the groups of an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from . import resampling
from .frames import places

Array = NDArray[Any]
FOLDS = 20  # fewer than the bootstrap asks for: folds are left out one at a time, and none counts twice
LEVEL = 0.95


def folds_of(groups: ArrayLike) -> Array:
    """Each example's fold, Int[n]: groups in the order of their names, dealt out in turn."""
    return np.unique(np.asarray(groups, str), return_inverse=True)[1] % FOLDS


def over_folds(
    statistic: Callable[[Array], Array | float],
    fold: Array,
    axes: Mapping[str, Sequence[Any]],
    unit: str,
    **columns: Any,
) -> pd.DataFrame:
    """One row a cell of `statistic(weights of the examples)`, with its jackknife over folds; n_groups counts these."""
    folds, shape = int(fold.max()) + 1, tuple(len(labels) for labels in axes.values())
    present = np.ones((folds, int(np.prod(shape))), bool)
    found = resampling.interval(
        lambda weights: np.stack([np.asarray(statistic(one[fold]), float).ravel() for one in weights]),
        present,
        n_boot=1,
        seed=0,
        level=LEVEL,
    )
    measured = dict(zip(("value", "lower", "upper"), found, strict=True))
    return pd.DataFrame({**places(axes, shape), **measured, "n": len(fold), "n_groups": folds, "unit": unit, **columns})
