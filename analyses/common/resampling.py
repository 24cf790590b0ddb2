"""Intervals from groups: none below 5, Student's below 30, the percentile bootstrap from there on; and sign flips.

A statistic is a function of how often each group counts: weights [draws, G] -> [draws, cells]. The bootstrap draws the
weights, the jackknife leaves one group out at a time. numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

Array = NDArray[Any]
Statistic = Callable[[Array], Array]
CHUNK = 2**22  # float64 numbers held at once by draws of one chunk of cells: 32 MB
MIN_GROUPS = 5  # fewer groups say too little about how groups differ
BOOTSTRAP_FROM = 30  # below, percentiles of a bootstrap over groups cover 83 to 93 % where they say 95


def interval_name(n_groups: float) -> str:
    """How an interval of so many groups is made: "" (none), "Student, group sums" or "bootstrap over groups"."""
    if not n_groups >= MIN_GROUPS:
        return ""
    return "Student, group sums" if n_groups < BOOTSTRAP_FROM else "bootstrap over groups"


def interval(
    statistic: Statistic, present: Array, *, n_boot: int, seed: int, level: float
) -> tuple[Array, Array, Array]:
    """(value, lower, upper) of a statistic of group weights, [cells] each.

    present: Bool[G, cells], the groups that a cell has. NaN bounds below `MIN_GROUPS` groups; below `BOOTSTRAP_FROM`
    value ± t(g − 1) · jackknife error, which for a mean is √(g/(g − 1) · Σ_g (Σ_i (x − m))²) / n; else percentiles
    (expanded).
    """
    n_groups = present.sum(0)
    value = statistic(np.ones((1, len(present))))[0]
    lower, upper = np.full((2, *value.shape), np.nan)
    few = (n_groups >= MIN_GROUPS) & (n_groups < BOOTSTRAP_FROM)
    if few.any():
        width = _student(statistic, value, present, level)
        lower, upper = np.where(few, value - width, lower), np.where(few, value + width, upper)
    many = n_groups >= BOOTSTRAP_FROM
    if many.any():
        draws = np.concatenate([statistic(w) for w in group_draws(len(present), n_boot, seed)]).T
        low, high = percentiles(draws, expanded(level, n_groups))
        lower, upper = np.where(many, low, lower), np.where(many, high, upper)
    return value, lower, upper


def _student(statistic: Statistic, value: Array, present: Array, level: float) -> Array:
    """Half the width of the interval, [cells]: the jackknife over groups, with Student's quantile."""
    without = statistic(1 - np.eye(len(present)))
    n_groups = np.maximum(present.sum(0), 2)
    spread = np.where(present, (without - value) ** 2, 0).sum(0)
    error = np.sqrt((n_groups - 1) / n_groups * spread)
    return distributions.t.ppf((1 + level) / 2, n_groups - 1) * error


def group_draws(n_groups: int, n_boot: int, seed: int) -> Iterator[Array]:
    """How often each group is drawn: [draws, G] in chunks; the same numbers however they are chunked."""
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // n_groups)
    for start in range(0, n_boot, size):
        count = min(size, n_boot - start)
        yield rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=count).astype(float)


def expanded(level: float, n_groups: Array) -> Array:
    """The level of percentiles that covers `level`: draws spread by √((g − 1)/g) too little and know no Student's t.

    Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap (expanded percentile interval).
    """
    n = np.maximum(n_groups, 2)
    return 1 - 2 * distributions.norm.sf(np.sqrt(n / (n - 1)) * distributions.t.ppf((1 + level) / 2, n - 1))


def percentiles(draws: Array, level: float | Array) -> tuple[Array, Array]:
    """Lower and upper percentile of each row [cells, draws], linear between draws, NaN draws left out."""
    draws = np.sort(draws, axis=1)  # NaN last
    last = np.maximum((~np.isnan(draws)).sum(1) - 1, 0)
    lower, upper = ((1 - level) / 2 * last, (1 + level) / 2 * last)
    return _between(draws, lower), _between(draws, upper)


def _between(ordered: Array, position: Array) -> Array:
    rows, below = np.arange(len(ordered)), np.floor(position).astype(int)
    left, right = ordered[rows, below], ordered[rows, np.ceil(position).astype(int)]
    return left + (right - left) * (position - below)


# ---------------------------------------------------------------- sign flips


def flip_p(sums: Array, *, n_flips: int, seed: int) -> Array:
    """Two-sided p of Σ_g sums = 0, [G, cells] -> [cells]: how often flipped signs of whole groups reach as far.

    Exact where all sign patterns are at most `n_flips`, else drawn, with one added above and below.
    """
    observed, reach = np.abs(sums.sum(0)), _slack(sums)
    hits, total = np.zeros(sums.shape[1]), 0
    for signs in _flips(len(sums), n_flips, seed):
        hits += (np.abs(signs @ sums) >= observed - reach).sum(0)
        total += len(signs)
    return _share(hits, total, exact=_all_flips(len(sums), n_flips))


def family_flip_p(sums: Array, *, n_flips: int, seed: int) -> Array:
    """p of each cell within the whole family, [G, cells] -> [cells]: how often the largest |t| of flipped groups is as
    large as the cell's. t = Σ_g sums / √(Σ_g sums²), which no flip changes below. Family-wise error, any dependence.
    """
    scale = np.sqrt((sums**2).sum(0))
    t = np.divide(sums, scale, out=np.zeros_like(sums), where=scale > 0)
    observed = np.abs(t.sum(0))
    hits, total = np.zeros(sums.shape[1]), 0
    for signs in _flips(len(sums), n_flips, seed):
        largest = np.sort(np.abs(signs @ t).max(1))
        hits += len(largest) - np.searchsorted(largest, observed - 1e-9)
        total += len(signs)
    return _share(hits, total, exact=_all_flips(len(sums), n_flips))


def _share(hits: Array, total: int, exact: bool) -> Array:
    return hits / total if exact else (hits + 1) / (total + 1)


def _slack(sums: Array) -> Array:
    """Sums in another order differ by rounding: an equal pattern counts as equal."""
    return 1e-9 * np.abs(sums).sum(0)


def _all_flips(n_groups: int, n_flips: int) -> bool:
    return n_groups <= 1 or 2 ** (n_groups - 1) <= n_flips


def _flips(n_groups: int, n_flips: int, seed: int) -> Iterator[Array]:
    """Signs [flips, G] in chunks; where they are few, all of them, the first group's sign fixed."""
    if _all_flips(n_groups, n_flips):
        bits = np.arange(2 ** (n_groups - 1))[:, None] >> np.arange(n_groups) & 1
        yield 1.0 - 2.0 * bits
        return
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // (64 * n_groups))
    for start in range(0, n_flips, size):
        yield rng.choice([-1.0, 1.0], size=(min(size, n_flips - start), n_groups))
