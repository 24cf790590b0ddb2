"""Numbers that are no means, from sums by fold: about 20 folds of whole groups, taken as the groups of an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .frames import by_weights

Array = NDArray[Any]
FOLDS = 20  # fewer than the bootstrap asks for: folds are left out one at a time, and none counts twice


def folds_of(groups: ArrayLike) -> Array:
    """Each example's fold, Int[n]: groups in the order of their names, dealt out in turn."""
    return np.unique(np.asarray(groups), return_inverse=True)[1] % FOLDS


def over_folds(
    statistic: Callable[[Array], Array | float],
    fold: Array,
    axes: Mapping[str, Sequence[Any]],
    unit: str,
    **columns: Any,
) -> pd.DataFrame:
    """One row a cell of `statistic(weights of the examples)`, with its jackknife over folds; n_groups counts these."""
    return by_weights(
        lambda weights: np.stack([np.asarray(statistic(one[fold]), float).ravel() for one in weights]),
        int(fold.max()) + 1,
        axes,
        unit,
        n=len(fold),
        n_boot=1,
        **columns,
    )
