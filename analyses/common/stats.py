"""Statistics: intervals from groups, split halves, many tests at once, and the overlap of two circuits.

`values` has the examples first and any number of cells behind: [n, ...cells]. NaN is an example that a
cell does not have. `groups` [n] names what repeats (image, template, passage): examples of a group stay together.
Below 5 groups there is no interval, below 30 it is Student's on group sums, else the percentile bootstrap over groups
(`resampling`). Everything is deterministic in `seed`; the same draws serve all cells. numpy and scipy only; tensors on
the CPU are taken as arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

from . import resampling
from .circuit_overlap import CircuitOverlap, circuit_overlap, overlap_distribution
from .resampling import BOOTSTRAP_FROM, MIN_GROUPS, interval_name

Array = NDArray[Any]
__all__ = [
    "BOOTSTRAP_FROM",
    "MIN_GROUPS",
    "CircuitOverlap",
    "Difference",
    "Estimate",
    "auroc_difference",
    "benjamini_hochberg",
    "bootstrap_statistic",
    "chosen_on",
    "circuit_overlap",
    "family_p",
    "group_bootstrap",
    "interval_name",
    "overlap_distribution",
    "paired_difference",
    "ratio_bootstrap",
    "ratio_difference",
    "split_half",
    "split_half_correlation",
    "stratified_auroc",
]


class Estimate(NamedTuple):
    """A value with its 95 % (or `level`) interval; arrays of the cells' shape."""

    value: Array
    lower: Array
    upper: Array


class Difference(NamedTuple):
    """A paired difference with its interval and two-sided p by sign flips of group sums."""

    value: Array
    lower: Array
    upper: Array
    p_value: Array


# ---------------------------------------------------------------- intervals


def group_bootstrap(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    statistic: Literal["mean", "median"] = "mean",
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean or median over examples of every cell, with an interval from its groups.

    values: [n, ...cells]; groups: [n]. Returns (value, lower, upper), each [...cells], unit of `values`.
    Examples weigh the same, so a large group weighs more. Bounds are NaN where fewer than 5 groups have data in the
    cell, and the value too where none has; below 30 groups Student's on group sums (for a median: order statistics
    of the groups' medians), else percentiles of resampled groups.
    Errors: ValueError for no examples, unequal lengths, infinities, or arguments out of range.
    """
    values, codes = _checked(values, groups, n_boot, level)
    if statistic == "mean":
        return _ratio(values, _present(values), codes, n_boot, seed, level)
    if statistic == "median":
        return _median(values, codes, n_boot, seed, level)
    raise ValueError(f'unknown statistic {statistic!r}: use "mean" or "median"')


def ratio_bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Σ numerators / Σ denominators of every cell (sums first, ratio last), with an interval.

    numerators: [n, ...cells]; denominators: the same shape, or [n] for all cells. An example with NaN in
    either is left out of both. NaN where the denominators sum to 0. A denominator whose own interval
    contains 0 makes the ratio meaningless: look at it first. Errors: as `group_bootstrap`.
    """
    top, codes = _checked(numerators, groups, n_boot, level)
    bottom, _ = _checked(denominators, groups, n_boot, level)
    bottom = bottom.reshape(bottom.shape + (1,) * (top.ndim - bottom.ndim))
    if bottom.ndim != top.ndim or bottom.shape[1:] not in (top.shape[1:], (1,) * (top.ndim - 1)):
        raise ValueError(f"denominators {np.shape(denominators)} do not fit numerators {top.shape}")
    missing = np.isnan(top) | np.isnan(bottom)
    top, bottom = np.where(missing, np.nan, top), np.where(missing, np.nan, bottom)
    return _ratio(top, bottom, codes, n_boot, seed, level)


def bootstrap_statistic(
    values: ArrayLike,
    groups: ArrayLike,
    statistic: Callable[[Array], Array],
    *,
    n_boot: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """statistic(mean over examples) of values [n, ...], with an interval from its groups.

    For what is no mean itself, such as a divergence of mean distributions; `statistic` maps [...] to [*cells]. From 30
    groups on they are drawn and the statistic taken anew (a divergence of resampled means lies a little above that of
    all: the interval is shifted up by it), below it is a jackknife. NaN bounds with fewer than 5 groups.
    Errors: as `group_bootstrap`, and for NaN values.
    """
    values, codes = _checked(values, groups, n_boot, level)
    if np.isnan(values).any():
        raise ValueError("values holds NaN: a mean of distributions needs them whole")
    sums, counts = _group_sums(values.reshape(len(values), -1), codes), np.bincount(codes).astype(float)
    shape = np.shape(statistic(values.mean(0)))

    def of_weights(weights: Array) -> Array:
        means = (weights @ sums / (weights @ counts)[:, None]).reshape(-1, *values.shape[1:])
        return np.stack([np.ravel(statistic(mean)) for mean in means])

    present = np.ones((len(counts), int(np.prod(shape))), bool)
    estimate = resampling.interval(of_weights, present, n_boot=n_boot, seed=seed, level=level)
    return Estimate(*(x.reshape(shape) for x in estimate))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Mean of a − b over the examples that have both, with an interval and a two-sided p.

    a, b: [n, ...cells], the same examples in the same order (a measure and its control). p: how often flipped signs
    of whole groups' sums reach as far from 0, all flips where they are at most `n_boot`; NaN below 5 groups.
    Errors: as `group_bootstrap`, and for unequal shapes.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape}, b {b.shape}: pairs need the same shape")
    values, codes = _checked(a - b, groups, n_boot, level)
    estimate = _ratio(values, _present(values), codes, n_boot, seed, level)
    return Difference(*estimate, _flipped(resampling.flip_p, values, codes, n_boot, seed))


def family_p(values: ArrayLike, groups: ArrayLike, *, n_flips: int = 2000, seed: int = 0) -> Array:
    """Two-sided p that a cell's mean is 0, corrected for all cells at once: [n, ...cells] -> [...cells].

    How often the largest |t| over cells, with signs of whole groups' sums flipped, reaches the cell's. Family-wise:
    under the null the chance that any cell has p ≤ .05 is at most 5 %, whatever the cells' dependence (Westfall and
    Young's maximum). At 5 groups no cell can have p below 1/16. NaN where a cell has fewer than 5 groups.
    Errors: as `group_bootstrap`.
    """
    values, codes = _checked(values, groups, n_flips)
    return _flipped(resampling.family_flip_p, values, codes, n_flips, seed)


def _flipped(test: Callable[..., Array], values: Array, codes: Array, n_flips: int, seed: int) -> Array:
    """p [...cells] of a test by sign flips of group sums; NaN below 5 groups."""
    flat = values.reshape(len(values), -1)
    few = (_group_sums(~np.isnan(flat), codes) > 0).sum(0) < MIN_GROUPS
    if flat.shape[1] == 0 or few.all():
        return np.full(values.shape[1:], np.nan)
    p = test(np.where(few, 0, _group_sums(flat, codes)), n_flips=n_flips, seed=seed)
    return np.where(few, np.nan, p).reshape(values.shape[1:])


def _checked(values: ArrayLike, groups: ArrayLike, n_boot: int = 1, level: float = 0.5) -> tuple[Array, Array]:
    """values as float64 and groups as codes 0…G−1."""
    values, groups = np.asarray(values, float), np.asarray(groups)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError("values holds no examples")
    if groups.shape != values.shape[:1]:
        raise ValueError(f"groups has shape {groups.shape}, expected ({len(values)},): one per example")
    if np.isinf(values).any():
        raise ValueError("values holds infinities: a mean of them says nothing")
    if n_boot < 1 or not 0 < level < 1:
        raise ValueError(f"n_boot = {n_boot} must be ≥ 1 and level = {level} inside (0, 1)")
    return values, _codes(groups)


def _codes(groups: ArrayLike) -> Array:
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def _present(values: Array) -> Array:
    """1 where the example is there: the mean is a ratio of sums with these denominators."""
    return np.where(np.isnan(values), np.nan, 1.0)


def _group_sums(values: Array, codes: Array) -> Array:
    """[n, cells] → [G, cells], NaN as 0."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return np.add.reduceat(np.nan_to_num(values[order].astype(float)), starts, axis=0)


def _ratio(top: Array, bottom: Array, codes: Array, n_boot: int, seed: int, level: float) -> Estimate:
    """value, lower, upper of Σ top / Σ bottom for every cell; NaNs of the two coincide."""
    cells = top.shape[1:]
    top, bottom = (x.reshape(len(x), -1) for x in np.broadcast_arrays(top, bottom))
    sums = [_group_sums(x, codes) for x in (top, bottom, ~np.isnan(top))]
    size = max(1, resampling.CHUNK // max(n_boot, len(sums[0])))
    spans = [slice(start, start + size) for start in range(0, top.shape[1], size)]
    parts = [np.stack(_ratio_cells([x[:, span] for x in sums], n_boot, seed, level)) for span in spans]
    return Estimate(*(x.reshape(cells) for x in (np.concatenate(parts, axis=1) if parts else np.empty((3, 0)))))


def _ratio_cells(sums: list[Array], n_boot: int, seed: int, level: float) -> tuple[Array, Array, Array]:
    """[G, cells] sums of numerators, denominators, examples → value, lower, upper, each [cells]."""
    top, bottom, counts = sums
    shared = bottom[:, :1] if (bottom == bottom[:, :1]).all() else bottom  # one product instead of many
    return resampling.interval(
        lambda w: quotient(w @ top, w @ shared), counts > 0, n_boot=n_boot, seed=seed, level=level
    )


def quotient(top: ArrayLike, bottom: ArrayLike) -> Array:
    """top / bottom, broadcast; NaN where bottom is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


# ---------------------------------------------------------------- the median


def _median(values: Array, codes: Array, n_boot: int, seed: int, level: float) -> Estimate:
    cells, values = values.shape[1:], values.reshape(len(values), -1)
    columns = [_median_cell(column[there], codes[there], n_boot, seed, level) for column, there in _present_of(values)]
    return Estimate(*(np.array(x, float).reshape(cells) for x in (zip(*columns, strict=True) if columns else [[]] * 3)))


def _present_of(values: Array) -> list[tuple[Array, Array]]:
    return [(column, ~np.isnan(column)) for column in values.T]


def _median_cell(values: Array, codes: Array, n_boot: int, seed: int, level: float) -> tuple[float, float, float]:
    """value, lower, upper of one cell's median."""
    names, codes = np.unique(codes, return_inverse=True)
    value = float(np.median(values)) if len(values) else np.nan
    if len(names) < MIN_GROUPS:
        return value, np.nan, np.nan
    if len(names) < BOOTSTRAP_FROM:
        return value, *_order_bounds([np.median(values[codes == g]) for g in range(len(names))], value, level)
    order = np.argsort(values, kind="stable")
    draws = [
        _weighted_medians(values[order], w.T.astype(np.int32)[codes[order]])
        for w in resampling.group_draws(len(names), n_boot, seed)
    ]
    lower, upper = resampling.percentiles(np.concatenate(draws)[None], resampling.expanded(level, np.array(len(names))))
    return value, float(lower[0]), float(upper[0])


def _order_bounds(medians: list[Any], value: float, level: float) -> tuple[float, float]:
    """The groups' medians of rank k and G + 1 − k, k by the binomial so that they cover about `level`; with the value
    inside, which large groups may draw out.
    """
    ordered, n = np.sort(medians), len(medians)
    ranks = np.arange(1, n // 2 + 1)
    covered = 1 - 2 * distributions.binom.cdf(ranks - 1, n, 0.5)
    k = int(ranks[np.abs(covered - level).argmin()])
    return min(value, float(ordered[k - 1])), max(value, float(ordered[n - k]))


def _weighted_medians(ordered: Array, weights: Array) -> Array:
    """Median of `ordered` [n] with each value repeated as often as weights [n, draws] say."""
    reached = weights.cumsum(0, dtype=np.int32)
    total = reached[-1]
    low, high = (reached > (total - 1) // 2).argmax(0), (reached > total // 2).argmax(0)
    return np.where(total > 0, (ordered[low] + ordered[high]) / 2, np.nan)


# ---------------------------------------------------------------- other statistics


def ratio_difference(
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    groups: ArrayLike,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Σ numerators / Σ denominators of a, minus that of b, the same examples in both: interval and two-sided p.

    a, b: (numerators [n], denominators [n]) of one measure before and after; every draw of groups serves both. p by
    sign flips of the groups' shares in the difference under one common ratio. Errors: as `group_bootstrap`.
    """
    parts = [_checked(x, groups, n_boot, level)[0] for pair in (a, b) for x in pair]
    codes = _codes(groups)
    sums = np.concatenate([_group_sums(x.reshape(len(x), -1), codes) for x in parts], 1)

    def of_weights(w: Array) -> Array:
        top_a, bottom_a, top_b, bottom_b = (w @ sums).T
        return (quotient(top_a, bottom_a) - quotient(top_b, bottom_b))[:, None]

    present = np.ones((len(sums), 1), bool)
    value, lower, upper = (
        x[0] for x in resampling.interval(of_weights, present, n_boot=n_boot, seed=seed, level=level)
    )
    if len(sums) < MIN_GROUPS or np.isnan(value):
        return Difference(value, lower, upper, np.array(np.nan))
    return Difference(value, lower, upper, resampling.flip_p(_shares(sums), n_flips=n_boot, seed=seed)[0])


def _shares(sums: Array) -> Array:
    """[G, 1]: what each group adds to the difference of two ratios, if both had the ratio of all sums."""
    total = sums.sum(0)
    common = (total[0] + total[2]) / (total[1] + total[3])
    excess = (sums[:, 0] - common * sums[:, 1]) / total[1] - (sums[:, 2] - common * sums[:, 3]) / total[3]
    return excess[:, None]


def stratified_auroc(
    scores: ArrayLike,
    positive: ArrayLike,
    strata: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """AUROC over pairs of one stratum: how often a positive scores above a negative; ties count half. 0…1, chance ½.

    scores, positive (Boolean), strata, groups: [n]; pairs across strata are not compared, so what differs between
    strata alone (the place in a text) cannot help. With one stratum it is the usual AUROC. NaN without such pairs;
    draws without pairs are left out. Errors: ValueError for unequal lengths, NaN scores, or as `group_bootstrap`.
    """
    _, codes = _checked(scores, groups, n_boot, level)
    of_weights = _auroc(scores, positive, strata, codes)
    present = np.ones((int(codes.max()) + 1, 1), bool)
    return Estimate(*(x[0] for x in resampling.interval(of_weights, present, n_boot=n_boot, seed=seed, level=level)))


def auroc_difference(
    a: ArrayLike,
    b: ArrayLike,
    positive: ArrayLike,
    strata: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """`stratified_auroc` of the scores a minus that of the scores b of the same items [n], paired: −1…1.

    Every draw of groups serves both. Errors: as `stratified_auroc`.
    """
    _, codes = _checked(a, groups, n_boot, level)
    of_a, of_b = (_auroc(scores, positive, strata, codes) for scores in (a, b))
    present = np.ones((int(codes.max()) + 1, 1), bool)
    found = resampling.interval(lambda w: of_a(w) - of_b(w), present, n_boot=n_boot, seed=seed, level=level)
    return Estimate(*(x[0] for x in found))


def _auroc(scores: ArrayLike, positive: ArrayLike, strata: ArrayLike, codes: Array) -> Callable[[Array], Array]:
    """AUROC within strata as a function of how often each group counts: weights [draws, G] -> [draws, 1]."""
    scores, chosen, strata = np.asarray(scores, float), np.asarray(positive, bool), np.asarray(strata)
    if scores.ndim != 1 or not codes.shape == chosen.shape == strata.shape == scores.shape or np.isnan(scores).any():
        raise ValueError("scores, positive and strata must be [n], without NaN")
    same = (strata[chosen][:, None] == strata[~chosen][None]).astype(float)
    gap = scores[chosen][:, None] - scores[~chosen][None]
    wins = same * ((gap > 0) + 0.5 * (gap == 0))

    def of_weights(w: Array) -> Array:
        up, down = w[:, codes[chosen]], w[:, codes[~chosen]]
        return quotient(((up @ wins) * down).sum(-1), ((up @ same) * down).sum(-1))[:, None]

    return of_weights


# ---------------------------------------------------------------- split halves, many tests


def chosen_on(
    values: ArrayLike, groups: ArrayLike, choose: Callable[[Array], ArrayLike], *, seed: int = 0
) -> tuple[Array, Array]:
    """What is chosen on one half of the groups, and the other half to measure it on: (choice, Bool[n]).

    choose: the values [m, ...cells] of the first half of `split_half` -> whatever names the choice (cells, a state).
    A number measured on the half that chose it is lifted by luck; on the other it is not.
    Errors: as `split_half`.
    """
    first, second = split_half(groups, seed)
    return np.asarray(choose(np.asarray(values)[first])), second


def split_half(groups: ArrayLike, seed: int = 0) -> tuple[Array, Array]:
    """Two disjoint halves of the groups as masks over the examples: (Bool[n], Bool[n]).

    Select heads, layers or thresholds on one, score on the other. With an odd number of groups the second
    half has one more. Which groups fall together depends on `seed`, not on the order of the examples.
    Errors: ValueError for fewer than two groups.
    """
    codes = _codes(groups)
    n_groups = int(codes.max(initial=-1)) + 1
    if n_groups < 2:
        raise ValueError(f"{n_groups} group(s) cannot be split into halves")
    chosen = np.random.default_rng(seed).permutation(n_groups)[: n_groups // 2]
    first = np.isin(codes, chosen)
    return first, ~first


def split_half_correlation(values: ArrayLike, groups: ArrayLike, *, n_splits: int = 100, seed: int = 0) -> float:
    """Reliability of a map: correlation over cells of the means of two halves, Spearman–Brown corrected.

    values: [n, ...cells], at least two cells. r is Pearson's, averaged over `n_splits` random halves of the
    groups, then 2r/(1 + r): the reliability of the mean over all groups, 0…1; halves that disagree (r below 0) have
    none: 0. NaN where a half is constant over the cells.
    Errors: ValueError as `group_bootstrap`, and for fewer than two cells, two groups or one split.
    """
    values, codes = _checked(values, groups)
    if n_splits < 1:
        raise ValueError(f"n_splits = {n_splits} is below 1")
    values = values.reshape(len(values), -1)
    if values.shape[1] < 2:
        raise ValueError("values holds fewer than two cells: nothing to correlate")
    sums, counts = _group_sums(values, codes), _group_sums(_present(values), codes)
    seeds = np.random.default_rng(seed).integers(2**32, size=n_splits)
    halves = [split_half(np.arange(len(sums)), s)[0] for s in seeds]
    r = float(np.mean([_half_correlation(sums, counts, half) for half in halves]))
    return 2 * max(r, 0.0) / (1 + max(r, 0.0)) if not np.isnan(r) else r


def _half_correlation(sums: Array, counts: Array, half: Array) -> float:
    a, b = (quotient(sums[h].sum(0), counts[h].sum(0)) for h in (half, ~half))
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = (x[both] - x[both].mean() if both.any() else x[both] for x in (a, b))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Benjamini–Hochberg q-values of all p-values at once, any shape, 0…1; NaN stays NaN and is not counted.

    q ≤ 0.05 bounds the expected share of false discoveries by 5 % (independent or positively dependent tests), if the
    p-values are right in their tails: those of `paired_difference` are, a bootstrap's over few groups are not.
    Errors: ValueError for p outside 0…1.
    """
    p = np.asarray(p, float)
    q, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        q[known] = distributions.false_discovery_control(p[known])
    return q
