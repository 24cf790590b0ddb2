"""Statistics: intervals that resample groups, split halves, and the overlap of two circuits.

`values` has the examples first and any number of cells behind: [n, ...cells]. NaN is an example that a
cell does not have. `groups` [n] names what repeats (image, template, passage): groups are drawn with
replacement, examples of a group stay together. Everything is deterministic in `seed`; the same draws serve
all cells. numpy and scipy only; tensors on the CPU are taken as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

Array = NDArray[Any]
CHUNK = 2**22  # float64 numbers held at once by draws of one chunk of cells: 32 MB


class Estimate(NamedTuple):
    """A value with its percentile bootstrap interval; arrays of the cells' shape."""

    value: Array
    lower: Array
    upper: Array


class Difference(NamedTuple):
    """A paired difference with its interval and two-sided bootstrap p."""

    value: Array
    lower: Array
    upper: Array
    p_value: Array


# ---------------------------------------------------------------- group bootstrap


def group_bootstrap(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    statistic: Literal["mean", "median"] = "mean",
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean or median over examples of every cell, with an interval from resampled groups.

    values: [n, ...cells]; groups: [n]. Returns (value, lower, upper), each [...cells], unit of `values`.
    Examples weigh the same, so a large group weighs more. Bounds are percentiles of the draws; NaN where
    fewer than two groups have data in the cell, and the value too where none has.
    Errors: ValueError for no examples, unequal lengths, infinities, or arguments out of range.
    """
    values, codes = _checked(values, groups, n_boot, level)
    if statistic == "mean":
        return Estimate(*_ratio(values, _present(values), codes, n_boot, seed, level)[:3])
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
    return Estimate(*_ratio(top, bottom, codes, n_boot, seed, level)[:3])


def bootstrap_statistic(
    values: ArrayLike,
    groups: ArrayLike,
    statistic: Callable[[Array], Array],
    *,
    n_boot: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """statistic(mean over examples) of values [n, ...], with an interval: groups are drawn, the statistic taken anew.

    For what is no mean itself, such as a divergence of mean distributions; `statistic` maps [...] to [*cells]. A
    divergence of resampled means lies a little above that of all: the interval is shifted up by it.
    NaN bounds with fewer than two groups. Errors: as `group_bootstrap`, and for NaN values.
    """
    values, codes = _checked(values, groups, n_boot, level)
    if np.isnan(values).any():
        raise ValueError("values holds NaN: a mean of distributions needs them whole")
    sums = _group_sums(values.reshape(len(values), -1), codes)
    counts = np.bincount(codes).astype(float)
    value = statistic(values.mean(0))
    if len(counts) < 2:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    draws = [row for chunk in _draws(len(counts), n_boot, seed) for row in chunk]
    found = np.stack([statistic((w @ sums / (w @ counts)).reshape(values.shape[1:])) for w in draws])
    return Estimate(value, *np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Mean of a − b over the examples that have both, with an interval and a two-sided bootstrap p.

    a, b: [n, ...cells], the same examples in the same order (a measure and its control). p is twice the
    smaller share of draws on one side of 0, draws + 1 in numerator and denominator: 2/(n_boot + 1) … 1;
    NaN with fewer than two groups. Errors: as `group_bootstrap`, and for unequal shapes.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape}, b {b.shape}: pairs need the same shape")
    values, codes = _checked(a - b, groups, n_boot, level)
    return Difference(*_ratio(values, _present(values), codes, n_boot, seed, level))


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
    return np.add.reduceat(np.nan_to_num(values[order]), starts, axis=0)


def _draws(n_groups: int, n_boot: int, seed: int) -> Iterator[Array]:
    """How often each group is drawn: [draws, G] in chunks; the same numbers however they are chunked."""
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // n_groups)
    for start in range(0, n_boot, size):
        count = min(size, n_boot - start)
        yield rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=count).astype(float)


def _ratio(
    top: Array, bottom: Array, codes: Array, n_boot: int, seed: int, level: float
) -> tuple[Array, Array, Array, Array]:
    """value, lower, upper, p of Σ top / Σ bottom for every cell; NaNs of the two coincide."""
    cells = top.shape[1:]
    top, bottom = (x.reshape(len(x), -1) for x in np.broadcast_arrays(top, bottom))
    present = ~np.isnan(top)
    sums = [_group_sums(x, codes) for x in (top, bottom, present)]
    size = max(1, CHUNK // n_boot)
    spans = [slice(start, start + size) for start in range(0, top.shape[1], size)]
    parts = [_ratio_cells([x[:, span] for x in sums], n_boot, seed, level) for span in spans]
    found = np.concatenate(parts, axis=1) if parts else np.empty((4, 0))
    value, lower, upper, p_value = (x.reshape(cells) for x in found)
    return value, lower, upper, p_value


def _ratio_cells(sums: list[Array], n_boot: int, seed: int, level: float) -> Array:
    """[G, cells] sums of numerators, denominators, examples → [4, cells]."""
    top, bottom, counts = sums
    n_groups = len(top)
    shared = bottom[:, :1] if (bottom == bottom[:, :1]).all() else bottom  # one product instead of many
    chunks = [_divide(w @ top, w @ shared).T for w in _draws(n_groups, n_boot, seed)]
    draws = np.concatenate(chunks, axis=1)
    draws[(counts > 0).sum(0) < 2] = np.nan
    value = _divide(top.sum(0), bottom.sum(0))
    return np.stack([value, *_percentiles(draws, level), _two_sided(draws)])


def _divide(top: Array, bottom: Array) -> Array:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def _percentiles(draws: Array, level: float) -> tuple[Array, Array]:
    """Lower and upper percentile of each row [cells, draws], linear between draws, NaN draws left out."""
    draws = np.sort(draws, axis=1)  # NaN last
    last = np.maximum((~np.isnan(draws)).sum(1) - 1, 0)
    lower, upper = ((1 - level) / 2 * last, (1 + level) / 2 * last)
    return _between(draws, lower), _between(draws, upper)


def _between(ordered: Array, position: Array) -> Array:
    rows, below = np.arange(len(ordered)), np.floor(position).astype(int)
    left, right = ordered[rows, below], ordered[rows, np.ceil(position).astype(int)]
    return left + (right - left) * (position - below)


def _two_sided(draws: Array) -> Array:
    known = (~np.isnan(draws)).sum(1)
    smaller = np.minimum((draws <= 0).sum(1), (draws >= 0).sum(1))
    return np.where(known > 0, np.minimum(1.0, 2 * (smaller + 1) / (known + 1)), np.nan)


def _median(values: Array, codes: Array, n_boot: int, seed: int, level: float) -> Estimate:
    cells, values = values.shape[1:], values.reshape(len(values), -1)
    order = np.argsort(values, axis=0, kind="stable")  # NaN last
    size = max(1, CHUNK // n_boot)
    spans = [slice(start, start + size) for start in range(0, values.shape[1], size)]
    parts = [_median_cells(values[:, s], order[:, s], codes, n_boot, seed, level) for s in spans]
    found = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    return Estimate(*(x.reshape(cells) for x in found))


def _median_cells(values: Array, order: Array, codes: Array, n_boot: int, seed: int, level: float) -> Array:
    """[n, cells] → [3, cells]."""
    counts = (~np.isnan(values)).sum(0)
    columns = [(values[at[:n], i], codes[at[:n]]) for i, (at, n) in enumerate(zip(order.T, counts, strict=True))]
    value = [float(np.median(ordered)) if len(ordered) else np.nan for ordered, _ in columns]
    chunks = [
        np.stack([_weighted_medians(ordered, w[groups]) for ordered, groups in columns])
        for w in (draws.T.astype(np.int32) for draws in _draws(int(codes.max()) + 1, n_boot, seed))
    ]
    draws = np.concatenate(chunks, axis=1)
    draws[[len(np.unique(groups)) < 2 for _, groups in columns]] = np.nan
    return np.stack([value, *_percentiles(draws, level)])


def _weighted_medians(ordered: Array, weights: Array) -> Array:
    """Median of `ordered` [n] with each value repeated as often as weights [n, draws] say."""
    if len(ordered) == 0:
        return np.full(weights.shape[1], np.nan)
    reached = weights.cumsum(0, dtype=np.int32)
    total = reached[-1]
    low, high = (reached > (total - 1) // 2).argmax(0), (reached > total // 2).argmax(0)
    return np.where(total > 0, (ordered[low] + ordered[high]) / 2, np.nan)


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

    a, b: (numerators [n], denominators [n]) of one measure before and after; every draw of groups serves both. Draws
    in which a denominator is 0 are left out. p as in `paired_difference`. Errors: as `group_bootstrap`.
    """
    parts = [_checked(x, groups, n_boot, level)[0] for pair in (a, b) for x in pair]
    codes = _codes(groups)
    sums = [_group_sums(x.reshape(len(x), -1), codes)[:, 0] for x in parts]
    drawn = [
        _divide(w @ sums[0], w @ sums[1]) - _divide(w @ sums[2], w @ sums[3])
        for w in _draws(len(sums[0]), n_boot, seed)
    ]
    draws = np.concatenate(drawn)[None]
    if len(sums[0]) < 2:
        draws[:] = np.nan
    totals = [x.sum() for x in sums]
    lower, upper = _percentiles(draws, level)
    value = _divide(totals[0], totals[1]) - _divide(totals[2], totals[3])
    return Difference(value, lower[0], upper[0], _two_sided(draws)[0])


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
    scores, codes = _checked(scores, groups, n_boot, level)
    chosen, strata = np.asarray(positive, bool), np.asarray(strata)
    if scores.ndim != 1 or chosen.shape != scores.shape or strata.shape != scores.shape or np.isnan(scores).any():
        raise ValueError("scores, positive and strata must be [n], without NaN")
    same = strata[chosen][:, None] == strata[~chosen][None]
    gap = scores[chosen][:, None] - scores[~chosen][None]
    wins = same * ((gap > 0) + 0.5 * (gap == 0))

    def ratio(up: Array, down: Array) -> Array:
        """[draws, positives], [draws, negatives] weights -> [draws]."""
        return _divide(((up @ wins) * down).sum(-1), ((up @ same.astype(float)) * down).sum(-1))

    drawn = [ratio(w[:, codes[chosen]], w[:, codes[~chosen]]) for w in _draws(int(codes.max()) + 1, n_boot, seed)]
    lower, upper = _percentiles(np.concatenate(drawn)[None], level)
    return Estimate(ratio(np.ones(int(chosen.sum())), np.ones(int((~chosen).sum()))), lower[0], upper[0])


# ---------------------------------------------------------------- split halves, many tests


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
    groups, then 2r/(1 + r): the reliability of the mean over all groups, at most 1; NaN where a half is
    constant over the cells or r is −1.
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
    return 2 * r / (1 + r) if r > -1 else float("nan")


def _half_correlation(sums: Array, counts: Array, half: Array) -> float:
    a, b = (_divide(sums[h].sum(0), counts[h].sum(0)) for h in (half, ~half))
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = (x[both] - x[both].mean() if both.any() else x[both] for x in (a, b))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Benjamini–Hochberg q-values of all p-values at once, any shape, 0…1; NaN stays NaN and is not counted.

    q ≤ 0.05 bounds the expected share of false discoveries by 5 % (independent or positively dependent
    tests). Errors: ValueError for p outside 0…1.
    """
    p = np.asarray(p, float)
    q, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        q[known] = distributions.false_discovery_control(p[known])
    return q


# ---------------------------------------------------------------- circuits


@dataclass(frozen=True)
class CircuitOverlap:
    """How far two tasks share their heads; made by `circuit_overlap`.

    share: in-circuit heads common to both / heads of one circuit, 0…1.
    jaccard: common heads / heads in either, 0…1.
    heads: the common heads, (layer, head) in order.
    ceiling: `share` between two halves of one task (mean over the tasks given), NaN without halves.
    p_value: chance of as large an overlap if heads are exchangeable within layers.
    p_hypergeometric: the same if all heads are exchangeable; ignores that circuits sit at some depth.
    """

    share: float
    jaccard: float
    heads: list[tuple[int, int]]
    ceiling: float
    p_value: float
    p_hypergeometric: float


def circuit_overlap(
    effects_a: ArrayLike,
    effects_b: ArrayLike,
    *,
    share: float = 0.02,
    halves_a: tuple[ArrayLike, ArrayLike] | None = None,
    halves_b: tuple[ArrayLike, ArrayLike] | None = None,
) -> CircuitOverlap:
    """Overlap of two tasks' circuits: the max(1, round(share · L · H)) heads of largest |effect| of each.

    effects_a, effects_b: [layer, head] of one model, any unit; tensors are welcome.
    halves_a, halves_b: effect maps of two halves of one task's groups; they set the ceiling noise leaves.
    p_value: with a_l and b_l in-circuit heads in layer l of H, the layer's overlap is hypergeometric
    (H, a_l, b_l); the layers' distributions are convolved (exact), p = P(overlap ≥ observed).
    Source: arXiv 2310.08744 (overlap; there circuits pool the top 2 % of each path-patching stage, here a
    flat share of one map). The p-values are added here.
    Errors: ValueError for unequal or non-2-D shapes, NaN effects, share outside (0, 1].
    """
    a, b = _circuit(effects_a, share), _circuit(effects_b, share)
    if a.shape != b.shape:
        raise ValueError(f"effects have shapes {a.shape} and {b.shape}: two models cannot be compared")
    common = a & b
    n_common, size = int(common.sum()), int(a.sum())
    return CircuitOverlap(
        share=n_common / size,
        jaccard=n_common / int((a | b).sum()),
        heads=[(int(layer), int(head)) for layer, head in np.argwhere(common)],
        ceiling=_ceiling([halves for halves in (halves_a, halves_b) if halves is not None], share),
        p_value=_overlap_p(a.sum(1), b.sum(1), a.shape[1], n_common),
        p_hypergeometric=float(distributions.hypergeom.sf(n_common - 1, a.size, size, size)),
    )


def _circuit(effects: Any, share: float) -> Array:
    """Bool[layer, head]: the same choice as `metrics.top_heads`, ties to the lower layer, then head."""
    if hasattr(effects, "detach"):  # a torch tensor, perhaps in half precision or with a gradient
        effects = effects.detach().cpu().double().numpy()
    effects = np.abs(np.asarray(effects, float))
    if effects.ndim != 2 or effects.size == 0:
        raise ValueError(f"effects has shape {effects.shape}, expected [layer, head]")
    if np.isnan(effects).any() or not 0 < share <= 1:
        raise ValueError(f"effects holds NaN, or share = {share} is outside (0, 1]")
    chosen = np.zeros(effects.size, bool)
    chosen[np.argsort(-effects.ravel(), kind="stable")[: max(1, round(share * effects.size))]] = True
    return chosen.reshape(effects.shape)


def overlap_distribution(a: ArrayLike, b: ArrayLike, n_heads: int) -> Array:
    """P(overlap = 0, 1, …) of two circuits with a_l and b_l heads in layer l of `n_heads`, exchangeable within layers.

    a, b: counts [layer]. The layers' hypergeometric overlaps are independent; their distributions are convolved.
    Errors: ValueError for unequal lengths.
    """
    total = np.ones(1)
    for a_l, b_l in zip(np.asarray(a), np.asarray(b), strict=True):
        if a_l and b_l:
            layer = distributions.hypergeom.pmf(np.arange(min(a_l, b_l) + 1), n_heads, a_l, b_l)
            total = np.convolve(total, layer)
    return total


def _overlap_p(a: Array, b: Array, n_heads: int, observed: int) -> float:
    """P(overlap ≥ observed) under `overlap_distribution`."""
    return float(min(1.0, overlap_distribution(a, b, n_heads)[observed:].sum()))


def _ceiling(pairs: list[tuple[ArrayLike, ArrayLike]], share: float) -> float:
    return float(np.mean([circuit_overlap(*pair, share=share).share for pair in pairs] or [np.nan]))
