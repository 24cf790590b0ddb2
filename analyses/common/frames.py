"""Long tables: the columns every table shares, in their order, and estimates of cells as rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ...probes.runs.results import Rows
from ...probes.runs.tables import SHARED
from . import resampling, stats


def order_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The shared columns first, in their order, where the table has them; then the table's own."""
    return frame.loc[:, shared_first(frame.columns)]


def shared_first(names: Collection[str]) -> list[str]:
    """The shared names first, in their order, then the others in theirs."""
    return [*(name for name in SHARED if name in names), *(name for name in names if name not in SHARED)]


def held_out(fitted_on: Mapping[str, int]) -> str:
    """What something was learned from, for a sentence that ends "on": the true numbers."""
    if not fitted_on["examples"]:
        return "no examples: it was given"
    return f"{fitted_on['examples']} held-out examples in {fitted_on['groups']} groups"


def of_half(selected_on: Sequence[str], fitted_on: Mapping[str, int]) -> str:
    """The same where one half of the groups chose: the examples of these groups, of how many in all."""
    return f"held-out examples of {len(selected_on)} groups, of {fitted_on['examples']} examples in all"


def head_axes(values: np.ndarray) -> dict[str, Any]:
    """The axes of rows [n, layer, head] for `summarise`, or of [n, layer], as of MLPs."""
    names = ("layer", "head")[: values.ndim - 1]
    return {name: np.arange(size) for name, size in zip(names, values.shape[1:], strict=True)}


def by_head(rows: Rows, values: np.ndarray, unit: str, **columns: Any) -> pd.DataFrame:
    """`summarise` of a run's values [n, layer, head], or [n, layer]."""
    return summarise(values, rows.examples["group"], head_axes(values), unit, **columns)


def summarise(
    values: ArrayLike,
    groups: ArrayLike,
    axes: Mapping[str, Sequence[Any]],
    unit: str,
    *,
    denominators: ArrayLike | None = None,
    statistic: Literal["mean", "median"] = "mean",
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    **columns: Any,
) -> pd.DataFrame:
    """One row per cell: value, group-bootstrap interval, n, n_groups, unit, the cell's place on the axes.

    values: [n, *cells], NaN where an example lacks the cell; groups: [n]; axes: name → labels of each cell
    axis, in order, e.g. {"layer": range(30), "head": range(9)}. n counts the examples a cell has, n_groups
    their groups. denominators ([n, *cells] or [n]): the value is then Σ values / Σ denominators.
    columns: constants such as subject="smollm2" or measure="entropy"; `statistic`, `n_boot`, `seed` and
    `level` go to `stats.group_bootstrap`.
    Errors: ValueError where the axes do not fit the cells, for a median with denominators, or as
    `stats.group_bootstrap`.
    """
    values, groups = np.asarray(values, float), np.asarray(groups)
    shape = tuple(len(labels) for labels in axes.values())
    if values.shape[1:] != shape:
        raise ValueError(f"values have cells {values.shape[1:]}, the axes {tuple(axes)} have {shape}")
    if denominators is not None and statistic != "mean":
        raise ValueError(f"a {statistic} has no denominators")
    options = {"n_boot": n_boot, "seed": seed, "level": level}
    present = ~np.isnan(values)
    if denominators is None:
        estimate = stats.group_bootstrap(values, groups, statistic=statistic, **options)
    else:
        below = np.asarray(denominators, float)
        present &= ~np.isnan(below.reshape(below.shape + (1,) * (values.ndim - below.ndim)))
        estimate = stats.ratio_bootstrap(values, below, groups, **options)
    measured = dict(zip(("value", "lower", "upper"), (x.ravel() for x in estimate), strict=True))
    counts = {"n": present.sum(0).ravel(), "n_groups": _group_counts(present, groups).ravel()}
    cells = {**places(axes, shape), **measured, **counts, "unit": unit, **columns}
    # in order before they are a frame: hundreds of small ones make a run's tables
    return pd.DataFrame({name: cells[name] for name in shared_first(cells)})


def by_weights(
    statistic: resampling.Statistic,
    n_groups: int,
    axes: Mapping[str, Sequence[Any]],
    unit: str,
    *,
    n: int,
    n_boot: int = 2000,
    level: float = 0.95,
    **columns: Any,
) -> pd.DataFrame:
    """The same of what is no mean of examples: a statistic of how often each group counts.

    statistic: weights [draws, n_groups] -> [draws, cells], cells in C order of the axes. Every group has every cell.
    """
    shape = tuple(len(labels) for labels in axes.values())
    present = np.ones((n_groups, math.prod(shape)), bool)
    found = resampling.interval(statistic, present, n_boot=n_boot, seed=0, level=level)
    measured = dict(zip(("value", "lower", "upper"), found, strict=True))
    counts = {"n": n, "n_groups": n_groups, "unit": unit}
    return pd.DataFrame({**places(axes, shape), **measured, **counts, **columns})


def joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several tables that something was measured for, as one table."""
    whole = pd.concat(list(parts), ignore_index=True)
    return whole[whole["n"] > 0].reset_index(drop=True)


def _group_counts(present: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """[*cells]: groups with at least one example in the cell."""
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    return np.logical_or.reduceat(present[order], starts, axis=0).sum(0)


def places(axes: Mapping[str, Sequence[Any]], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Axis name → its label for every cell, cells in C order."""
    places = np.unravel_index(np.arange(math.prod(shape)), shape) if shape else ()
    return {name: np.asarray(labels)[at] for (name, labels), at in zip(axes.items(), places, strict=True)}


def mean_of_present(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over the finite numbers along an axis; NaN where there are none (np.nanmean warns)."""
    there = np.isfinite(values)
    return stats.quotient(np.where(there, values, 0).sum(axis), there.sum(axis))


def of_heads(values: np.ndarray) -> np.ndarray:
    """[n, layers, heads] without the layers that have no heads, where all is NaN: what is summed or averaged over."""
    there = ~np.isnan(values).all((0, 2))
    return values if there.all() else np.ascontiguousarray(values[:, there])


def middle(n_layers: int) -> slice:
    """The middle half of the layers, where φ's threshold and the statements are read."""
    return slice(n_layers // 4, n_layers - n_layers // 4)
