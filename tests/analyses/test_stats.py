"""Laws of the statistics: against loops, scipy, enumeration, Monte Carlo and known distributions."""

import itertools
import subprocess
import sys
from math import comb

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.analyses import metrics
from crosslens.analyses.common import circuit_overlap, frames, resampling, stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)
MISSING = np.nan


def sample(seed: int, *shape: int, missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    values[rng.random(shape) < missing] = MISSING
    return values


def loop_bootstrap(values, groups, statistic, n_boot, seed, level=0.95):
    """One cell, the slow way: the groups' examples repeated as often as they are drawn."""
    names = np.unique(groups)
    rng = np.random.default_rng(seed)
    draws = []
    for counts in rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_boot):
        drawn = np.concatenate([np.tile(values[groups == g], c) for g, c in zip(names, counts, strict=True)])
        drawn = drawn[~np.isnan(drawn)]
        if len(drawn):
            draws.append(statistic(drawn))
    level = float(resampling.expanded(level, np.array(len(names))))
    bounds = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return statistic(values[~np.isnan(values)]), *bounds


# ---------------------------------------------------------------- group bootstrap


@pytest.mark.parametrize("name", ["mean", "median"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_group_bootstrap_equals_a_loop(name, missing):
    values = sample(0, 96, 3, 2)
    values[:16][np.random.default_rng(1).random((16, 3, 2)) < missing] = MISSING  # every group has a value left
    groups = np.array([f"{i % 40}" for i in range(80)] + ["3"] * 16)
    found = stats.group_bootstrap(values, groups, statistic=name, n_boot=60, seed=3)
    assert found.value.shape == found.lower.shape == found.upper.shape == (3, 2)
    for i, j in itertools.product(range(3), range(2)):
        expected = loop_bootstrap(values[:, i, j], groups, getattr(np, name), 60, 3)
        np.testing.assert_allclose([x[i, j] for x in found], expected, rtol=1e-9, atol=1e-12)


def test_group_bootstrap_of_singletons_is_the_ordinary_bootstrap():
    values = sample(1, 80)
    value, lower, upper = stats.group_bootstrap(values, np.arange(80), n_boot=4000)
    ordinary = scipy_stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1)
    assert value == pytest.approx(values.mean())
    np.testing.assert_allclose([lower, upper], ordinary.confidence_interval, atol=0.02)


def test_repeating_examples_inside_groups_does_not_narrow_the_interval():
    values, groups = sample(2, 40), np.arange(40)
    once = stats.group_bootstrap(values, groups)
    often = stats.group_bootstrap(np.repeat(values, 10), np.repeat(groups, 10))
    np.testing.assert_allclose(once, often, rtol=1e-9)


@quick
@given(seeds)
def test_group_bootstrap_laws(seed):
    rng = np.random.default_rng(seed)
    values, groups = sample(seed, 30, 4, missing=0.2), rng.integers(0, 8, 30)
    found = stats.group_bootstrap(values, groups, n_boot=100, seed=seed)
    order = rng.permutation(30)
    shuffled = stats.group_bootstrap(values[order], groups[order], n_boot=100, seed=seed)
    np.testing.assert_allclose(found, shuffled, rtol=1e-9)
    renamed = stats.group_bootstrap(values, [f"group {g}" for g in groups], n_boot=100, seed=seed)
    np.testing.assert_allclose(found, renamed, rtol=1e-9)
    moved = stats.group_bootstrap(3 * values + 2, groups, n_boot=100, seed=seed)
    np.testing.assert_allclose(moved, 3 * np.array(found) + 2, rtol=1e-8, atol=1e-10)
    wider = stats.group_bootstrap(values, groups, n_boot=100, seed=seed, level=0.99)
    assert (wider.lower <= found.lower).all()
    assert (wider.upper >= found.upper).all()
    assert (found.lower <= found.upper).all()


@pytest.mark.parametrize("name", ["mean", "median"])
def test_results_do_not_depend_on_chunks(monkeypatch, name):
    values, groups = sample(4, 90, 7, missing=0.2), np.arange(90) // 2
    whole = stats.group_bootstrap(values, groups, statistic=name, n_boot=50)
    monkeypatch.setattr(resampling, "CHUNK", 110)  # 2 cells, 2 draws at a time
    np.testing.assert_allclose(stats.group_bootstrap(values, groups, statistic=name, n_boot=50), whole, rtol=1e-12)
    assert [len(w) for w in resampling.group_draws(10, 50, 0)] == [11, 11, 11, 11, 6]


SIZES = (5, 9, 14, 40)  # groups: colored_objects has 9, ioi 14


def grouped(seed, n_groups, cells, per_group=3):
    """Values around 0 that differ between groups (sd 1) more than within (sd .5), and the groups."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(n_groups, 1, cells)) + 0.5 * rng.normal(size=(n_groups, per_group, cells))
    return effects.reshape(-1, cells), np.repeat(np.arange(n_groups), per_group)


@pytest.mark.parametrize("n_groups", SIZES)
def test_intervals_cover_the_truth_as_often_as_they_say(n_groups):
    values, groups = grouped(0, n_groups, 3000)
    _, lower, upper = stats.group_bootstrap(values, groups, n_boot=1000)
    assert 0.93 <= ((lower <= 0) & (upper >= 0)).mean() <= 0.97
    weights = np.repeat(np.random.default_rng(1).uniform(0.5, 1.5, len(values) // 3), 3)[:, None]
    _, lower, upper = stats.ratio_bootstrap(values, np.broadcast_to(weights, values.shape), groups, n_boot=1000)
    assert 0.93 <= ((lower <= 0) & (upper >= 0)).mean() <= 0.97
    # Resampling examples as if they were independent is too sure of itself.
    _, lower, upper = stats.group_bootstrap(values, np.arange(len(values)), n_boot=1000)
    assert ((lower <= 0) & (upper >= 0)).mean() < 0.85


@pytest.mark.parametrize("n_groups", SIZES)
def test_medians_and_curved_statistics_are_covered_too(n_groups):
    values, groups = grouped(1, n_groups, 3000, per_group=1)
    _, lower, upper = stats.bootstrap_statistic(values, groups, lambda mean: np.exp(0.3 * mean))
    assert 0.93 <= ((lower <= 1) & (upper >= 1)).mean() <= 0.97
    values, groups = grouped(2, n_groups, 1500, per_group=1)
    _, lower, upper = stats.group_bootstrap(values, groups, statistic="median", n_boot=400)
    assert 0.93 <= ((lower <= 0) & (upper >= 0)).mean() <= 0.97


@pytest.mark.parametrize("n_groups", SIZES)
def test_many_null_heads_are_no_discoveries(n_groups):
    """270 heads without effect, of one model: they share the groups' noise in part."""
    maps, heads = 60, 270
    shared, groups = grouped(2, n_groups, maps)
    own, _ = grouped(3, n_groups, maps * heads)
    values = own.reshape(-1, maps, heads) + 0.5 * shared[:, :, None]
    p = stats.paired_difference(values, np.zeros_like(values), groups).p_value
    assert (p <= 0.05).mean() <= 0.055
    false_maps = sum((stats.benjamini_hochberg(one) <= 0.05).any() for one in p)
    family = sum((stats.family_p(values[:, i], groups) <= 0.05).any() for i in range(maps))
    assert false_maps <= 0.05 * maps + 3
    assert family <= 0.05 * maps + 3  # the expected 3 and what chance adds
    if n_groups == 5:
        assert false_maps == family == 0  # no p of five groups can be small enough


def test_one_strong_head_is_found_among_many():
    values, groups = grouped(4, 14, 270)
    values[:, 7] += 3
    p = stats.family_p(values, groups)
    assert p[7] <= 0.05
    assert (np.delete(p, 7) > 0.05).all()


def test_sign_flips_equal_enumeration_and_the_family_of_one():
    values, groups = grouped(5, 6, 4)
    sums = np.stack([values[groups == g].sum(0) for g in range(6)])
    signs = np.array(list(itertools.product([1, -1], repeat=6)))
    exact = (np.abs(signs @ sums) >= np.abs(sums.sum(0)) - 1e-12).mean(0)
    np.testing.assert_allclose(stats.paired_difference(values, 0 * values, groups).p_value, exact)
    for cell in range(4):
        np.testing.assert_allclose(stats.family_p(values[:, [cell]], groups), exact[cell])
    assert (stats.family_p(values, groups) >= exact - 1e-12).all()


def test_student_interval_by_hand():
    values, groups = np.array([1.0, 2.0, 4.0, 3.0, 7.0, 5.0, 1.0]), np.array([0, 0, 1, 1, 2, 3, 4])
    found = stats.group_bootstrap(values, groups)
    residuals = np.array([(values[groups == g] - values.mean()).sum() for g in range(5)])
    # The jackknife over groups; with equal groups it is √(G/(G − 1) · Σ residuals²)/n.
    without = np.array([values[groups != g].mean() for g in range(5)])
    half = scipy_stats.t.ppf(0.975, 4) * np.sqrt(4 / 5 * ((without - values.mean()) ** 2).sum())
    np.testing.assert_allclose(found, [values.mean(), values.mean() - half, values.mean() + half])
    equal = stats.group_bootstrap(residuals, np.arange(5))
    half = scipy_stats.t.ppf(0.975, 4) * residuals.std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(equal.upper - equal.value, half)


@pytest.mark.parametrize("name", ["mean", "median"])
def test_fewer_than_five_groups_or_no_data_have_no_interval(name):
    values = np.array([[1.0, 1.0, MISSING], [2.0, 2.0, MISSING], [6.0, MISSING, MISSING], [0, 1, MISSING]] * 2)
    groups = ["a", "b", "c", "d", "a", "b", "e", "d"]
    value, lower, upper = stats.group_bootstrap(values, groups, statistic=name, n_boot=200)
    assert np.isnan(lower).tolist() == np.isnan(upper).tolist() == [False, True, True]
    assert value[1] == pytest.approx(4 / 3 if name == "mean" else 1)
    assert np.isnan(value[2])
    four = stats.group_bootstrap(values[:, 0], ["a", "b", "c", "d"] * 2, statistic=name, n_boot=10)
    assert np.isnan(four.lower)
    assert not np.isnan(four.value)
    assert np.isnan(stats.paired_difference(values, 0 * values, ["a", "b", "c", "d"] * 2).p_value).all()
    assert [stats.interval_name(n) != "" for n in (0, 4, 5, 29, 30)] == [False, False, True, True, True]


def test_bootstrap_refuses_nonsense():
    values, groups = sample(0, 4, 2), np.arange(4)
    for bad in (
        lambda: stats.group_bootstrap(values, groups[:3]),
        lambda: stats.group_bootstrap(values[:0], groups[:0]),
        lambda: stats.group_bootstrap(values, groups, statistic="mode"),
        lambda: stats.group_bootstrap(values, groups, n_boot=0),
        lambda: stats.group_bootstrap(values, groups, level=1.0),
        lambda: stats.group_bootstrap(values / 0.0, groups),
        lambda: stats.paired_difference(values, values[:, :1], groups),
        lambda: stats.ratio_bootstrap(values, sample(0, 4, 3), groups),
        lambda: stats.ratio_bootstrap(values[:, 0], values, groups),
    ):
        with np.errstate(divide="ignore"), pytest.raises(ValueError, match=r"."):
            bad()


def test_low_precision_and_tensor_input():
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(20) // 2
    expected = stats.group_bootstrap(values.numpy().astype(float), groups.numpy())
    np.testing.assert_allclose(stats.group_bootstrap(values, groups), expected)
    low = stats.group_bootstrap(values.numpy().astype(np.float16), groups)
    assert low.value.dtype == np.float64
    np.testing.assert_allclose(low, expected, atol=2e-3)


def test_ratio_takes_sums_first():
    top, bottom = np.array([1.0, 0.0, 30.0, MISSING]), np.array([1.0, 7.0, 10.0, 1000.0])
    groups = [0, 1, 2, 3]
    assert stats.ratio_bootstrap(top, bottom, groups, n_boot=50).value == pytest.approx(31 / 18)
    assert np.isnan(stats.ratio_bootstrap(top, [MISSING, -7.0, 7.0, 1.0], [0, 1, 2, 2], n_boot=5).value)
    values, weights = sample(0, 12, 5, missing=0.2), np.abs(sample(1, 12)) + 0.1
    shared = stats.ratio_bootstrap(values, weights, np.arange(12), n_boot=50)
    full = stats.ratio_bootstrap(values, np.repeat(weights[:, None], 5, 1), np.arange(12), n_boot=50)
    np.testing.assert_allclose(shared, full, rtol=1e-12)
    ones = stats.ratio_bootstrap(values, np.ones(12), np.arange(12), n_boot=50)
    np.testing.assert_allclose(ones, stats.group_bootstrap(values, np.arange(12), n_boot=50), rtol=1e-12)


def test_paired_difference_sees_what_unpaired_intervals_hide():
    rng = np.random.default_rng(0)
    base = 10 * rng.normal(size=(60, 2))
    a = base + np.array([0.5, 0.0]) + 0.2 * rng.normal(size=(60, 2))
    found = stats.paired_difference(a, base, np.arange(60), n_boot=999)
    assert found.value == pytest.approx((a - base).mean(0))
    assert found.lower[0] > 0
    assert found.p_value[0] == pytest.approx(1 / 1000)
    assert found.p_value[1] > 0.05
    assert found.lower[1] < 0 < found.upper[1]
    flipped = stats.paired_difference(base, a, np.arange(60), n_boot=999)
    np.testing.assert_allclose(flipped.p_value, found.p_value)
    np.testing.assert_allclose(flipped.lower, -found.upper, rtol=1e-9)
    same = stats.paired_difference(base, base, np.arange(60), n_boot=20)
    assert (same.p_value == 1).all()
    assert np.isnan(stats.paired_difference(a, base, np.zeros(60), n_boot=20).p_value).all()


def test_p_values_are_about_uniform_under_the_null():
    values = sample(0, 60, 1000)
    p = stats.paired_difference(values, np.zeros_like(values), np.arange(60), n_boot=400).p_value
    assert 0.02 < (p < 0.05).mean() < 0.10
    assert 0.4 < p.mean() < 0.6


# ---------------------------------------------------------------- halves, many tests


@quick
@given(seeds, st.integers(2, 9))
def test_split_half_keeps_groups_together(seed, n_groups):
    rng = np.random.default_rng(seed)
    groups = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, 20)]).astype(str)
    a, b = stats.split_half(groups, seed)
    assert (a ^ b).all()
    assert not set(groups[a]) & set(groups[b])
    assert (len(set(groups[a])), len(set(groups[b]))) == (n_groups // 2, n_groups - n_groups // 2)
    order = rng.permutation(len(groups))
    assert (stats.split_half(groups[order], seed)[0] == a[order]).all()


def test_split_half_needs_two_groups_and_varies_with_the_seed():
    with pytest.raises(ValueError, match="halves"):
        stats.split_half(["a", "a"])
    first = {tuple(stats.split_half(np.arange(12), seed)[0]) for seed in range(5)}
    assert len(first) > 1


def test_what_is_chosen_on_one_half_is_measured_on_the_other():
    """The best of 270 null heads looks good on the groups that chose it, and on no others."""
    values, groups = grouped(6, 14, 270)
    head, other = stats.chosen_on(values, groups, lambda half: half.mean(0).argmax())
    assert not set(groups[other]) & set(groups[~other])
    assert values[~other][:, head].mean() > 0.7
    assert abs(values[other][:, head].mean()) < 0.7
    assert head == values[~other].mean(0).argmax()


def test_split_half_correlation_is_the_reliability_of_the_mean():
    rng = np.random.default_rng(0)
    n, cells, noise = 16, 3000, 4.0
    values = rng.normal(size=cells) + noise * rng.normal(size=(n, cells))
    found = stats.split_half_correlation(values, np.arange(n), n_splits=20)
    assert found == pytest.approx(1 / (1 + noise**2 / n), abs=0.03)
    assert 0 <= stats.split_half_correlation(rng.normal(size=(n, cells)), np.arange(n)) < 0.1
    opposed = np.array([[1.0, -1.0, 2.0], [-1.0, 1.0, -2.1]])  # r near −1: 2r/(1 + r) has no bound
    assert stats.split_half_correlation(opposed, [0, 1]) == 0
    exact = np.tile(rng.normal(size=(5, 2)), (n, 1, 1))
    assert stats.split_half_correlation(exact, np.arange(n)) == pytest.approx(1)
    assert np.isnan(stats.split_half_correlation(np.ones((n, 4)), np.arange(n)))
    for bad in (values[:, :1], values[:1]):
        with pytest.raises(ValueError, match=r"."):
            stats.split_half_correlation(bad, np.arange(len(bad)))


def brute_benjamini_hochberg(p):
    """q = the smallest level at which the step-up procedure rejects."""
    m, ordered = len(p), np.sort(p)
    adjusted = [min(1.0, ordered[i] * m / (i + 1)) for i in range(m)]
    return np.array([min(a for a, x in zip(adjusted, ordered, strict=True) if x >= own) for own in p])


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_benjamini_hochberg_equals_its_definition_and_scipy(p):
    q = stats.benjamini_hochberg(p)
    np.testing.assert_allclose(q, brute_benjamini_hochberg(np.array(p)))
    np.testing.assert_allclose(q, scipy_stats.false_discovery_control(p))
    assert (q >= np.array(p) - 1e-12).all()
    holes = np.insert(np.array(p), 0, np.nan).reshape(1, -1)
    np.testing.assert_allclose(stats.benjamini_hochberg(holes)[0, 1:], q)


def test_benjamini_hochberg_keeps_shape_and_refuses_nonsense():
    assert stats.benjamini_hochberg(np.full((2, 3), np.nan)).shape == (2, 3)
    assert stats.benjamini_hochberg([]).shape == (0,)
    with pytest.raises(ValueError, match="p"):
        stats.benjamini_hochberg([0.5, 1.5])


# ---------------------------------------------------------------- circuits


def enumerated_p(a, b, n_heads, observed):
    """Every way to lay the circuits' heads out inside their layers, counted."""
    overlaps = []
    for n_a, n_b in zip(a, b, strict=True):
        layouts = itertools.product(
            itertools.combinations(range(n_heads), n_a), itertools.combinations(range(n_heads), n_b)
        )
        overlaps.append([len(set(x) & set(y)) for x, y in layouts])
    totals = [sum(layout) for layout in itertools.product(*overlaps)]
    return np.mean([total >= observed for total in totals])


@pytest.mark.parametrize(
    ("a", "b"), [([1, 2], [2, 1]), ([0, 2, 1], [1, 2, 0]), ([3, 1], [3, 2]), ([2], [2]), ([0, 1], [1, 0])]
)
def test_within_layer_p_equals_enumeration(a, b):
    for observed in range(sum(min(x, y) for x, y in zip(a, b, strict=True)) + 1):
        found = circuit_overlap._overlap_p(np.array(a), np.array(b), 3, observed)
        assert found == pytest.approx(enumerated_p(a, b, 3, observed))


def test_within_layer_p_equals_monte_carlo():
    rng = np.random.default_rng(0)
    layers, heads, draws = 6, 8, 4000
    a_counts, b_counts = np.array([0, 3, 4, 1, 2, 2]), np.array([1, 4, 3, 0, 2, 2])
    ranks = rng.random((2, draws, layers, heads)).argsort(-1).argsort(-1)
    overlap = ((ranks[0] < a_counts[:, None]) & (ranks[1] < b_counts[:, None])).sum((1, 2))
    for observed in (3, 5, 7):
        exact = circuit_overlap._overlap_p(a_counts, b_counts, heads, observed)
        assert (overlap >= observed).mean() == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / draws))


def effects_with(heads, shape=(6, 8), seed=0):
    effects = 0.1 * np.random.default_rng(seed).random(shape)
    for i, head in enumerate(heads):
        effects[head] = (-1) ** i * (2 + i)
    return effects


def test_circuit_overlap_by_hand():
    a = effects_with([(1, 2), (3, 0), (3, 5), (5, 7)])
    b = effects_with([(5, 7), (3, 0), (0, 0), (4, 4)], seed=1)
    found = stats.circuit_overlap(a, b, share=4 / 48)
    assert found.heads == [(3, 0), (5, 7)]
    assert (found.share, found.jaccard) == (0.5, 2 / 6)
    assert np.isnan(found.ceiling)
    expected = sum(comb(4, k) * comb(44, 4 - k) for k in (2, 3, 4)) / comb(48, 4)
    assert found.p_hypergeometric == pytest.approx(expected)
    # Layer 3 has 2 and 1 heads of 8, layer 5 has 1 and 1: both must hit.
    assert found.p_value == pytest.approx(2 / 8 * 1 / 8)


def test_depth_alone_makes_an_overlap_that_the_within_layer_p_does_not_believe():
    late = [(5, h) for h in range(6)]
    a, b = effects_with(late), effects_with([(5, h) for h in range(2, 8)], seed=1)
    found = stats.circuit_overlap(a, b, share=6 / 48)
    assert found.p_hypergeometric < 0.01
    assert found.p_value == pytest.approx(1)  # six and six of eight heads share at least four


def test_circuit_overlap_bounds_and_ceiling():
    a, b = effects_with([(0, 0)]), effects_with([(5, 5)], seed=1)
    same = stats.circuit_overlap(a, 3 * a, share=0.1, halves_a=(a, a), halves_b=(a, b))
    assert same.share == same.jaccard == 1
    assert same.ceiling_upper == 1  # the halves of the first task are equal: it could share everything
    assert stats.circuit_overlap(a, a, halves_a=(a, a)).ceiling == 1
    assert np.isnan(stats.circuit_overlap(a, a).ceiling)
    apart = stats.circuit_overlap(a, b)
    assert (apart.share, apart.jaccard, apart.heads) == (0, 0, [])
    assert apart.p_value == apart.p_hypergeometric == 1
    whole = stats.circuit_overlap(a, b, share=1)
    assert whole.share == whole.p_value == 1


def test_two_samples_of_one_task_stay_below_the_ceiling():
    rng = np.random.default_rng(1)
    overlaps, ceilings, above = [], [], 0
    for _ in range(40):
        truth = 0.1 * rng.normal(size=(30, 9)) * np.exp(2 * rng.normal(size=(30, 9)))
        spread = 2 * (0.1 + 0.5 * np.abs(truth))
        first, second = (truth + spread * rng.normal(size=(14, 30, 9)) for _ in range(2))
        halves = [(x[::2].mean(0), x[1::2].mean(0)) for x in (first, second)]
        found = stats.circuit_overlap(first.mean(0), second.mean(0), share=0.05, halves_a=halves[0], halves_b=halves[1])
        overlaps.append(found.share)
        ceilings.append(found.ceiling)
        above += found.share > found.ceiling_upper
        assert found.ceiling_lower <= found.ceiling <= found.ceiling_upper
    assert np.mean(overlaps) <= np.mean(ceilings) <= np.mean(overlaps) + 0.1
    assert above <= 2


@quick
@given(seeds, st.sampled_from([0.01, 0.02, 0.1, 0.5, 1.0]))
def test_circuit_overlap_chooses_the_heads_of_top_heads(seed, share):
    a, b = torch.randint(-4, 5, (2, 5, 9), generator=torch.Generator().manual_seed(seed)).float()
    found = stats.circuit_overlap(a, b, share=share)
    tops = [set(metrics.top_heads(x, share)) for x in (a, b)]
    assert found.heads == sorted(tops[0] & tops[1])
    assert found.share == len(tops[0] & tops[1]) / len(tops[0])
    mirrored = stats.circuit_overlap(b, a, share=share)
    assert (mirrored.p_value, mirrored.jaccard) == pytest.approx((found.p_value, found.jaccard))
    assert 0 < found.p_value <= 1
    assert 0 < found.p_hypergeometric <= 1
    half = stats.circuit_overlap(a.bfloat16().requires_grad_(), b.half(), share=share)
    assert half.heads == found.heads


def test_circuit_overlap_refuses_nonsense():
    a = effects_with([(0, 0)])
    for bad in (
        lambda: stats.circuit_overlap(a, a[:, :7]),
        lambda: stats.circuit_overlap(a, a, share=0),
        lambda: stats.circuit_overlap(a, a, share=1.5),
        lambda: stats.circuit_overlap(a[0], a[0]),
        lambda: stats.circuit_overlap(a, np.where(a > 1, np.nan, a)),
    ):
        with pytest.raises(ValueError, match=r"effects|share"):
            bad()


# ---------------------------------------------------------------- frames


def test_summarise_has_the_shared_columns_first_and_a_row_per_cell():
    values = sample(0, 24, 3, 2, missing=0.2)
    groups = np.repeat(["a", "b", "c", "d", "e", "f"], 4)
    axes = {"site": ["resid", "attn_out", "mlp_out"], "state": [4, 9]}
    table = frames.summarise(values, groups, axes, "nats", task="ioi", measure="kl")
    shared = ["task", "state", "value", "lower", "upper", "n", "n_groups", "unit"]
    assert list(table.columns) == [*shared, "site", "measure"]
    assert set(table["unit"]) == {"nats"}
    estimate = stats.group_bootstrap(values, groups)
    for (i, site), (j, state) in itertools.product(enumerate(axes["site"]), enumerate(axes["state"])):
        row = table[(table["site"] == site) & (table["state"] == state)].iloc[0]
        assert (row["value"], row["lower"], row["upper"]) == tuple(x[i, j] for x in estimate)
        there = ~np.isnan(values[:, i, j])
        assert (row["n"], row["n_groups"]) == (there.sum(), len(set(groups[there])))


def test_summarise_without_axes_and_with_denominators():
    values, groups = np.array([1.0, 2.0, 6.0, MISSING]), ["a", "b", "c", "c"]
    row = frames.summarise(values, groups, {}, "φ").iloc[0]
    assert (row["value"], row["n"], row["n_groups"]) == (3.0, 3, 3)
    counts = np.array([1.0, 1.0, MISSING, 1.0])
    row = frames.summarise(values, groups, {}, "share", denominators=counts, n_boot=10).iloc[0]
    assert (row["value"], row["n"], row["n_groups"]) == (1.5, 2, 2)
    median = frames.summarise(values[:, None], groups, {"head": [7]}, "rank", statistic="median", n_boot=10)
    assert median["value"].tolist() == [2.0]
    assert median["head"].tolist() == [7]


def test_summarise_refuses_axes_that_do_not_fit():
    values = sample(0, 4, 3)
    with pytest.raises(ValueError, match="axes"):
        frames.summarise(values, np.arange(4), {"layer": range(2)}, "φ")
    with pytest.raises(ValueError, match="denominators"):
        frames.summarise(values, range(4), {"layer": range(3)}, "φ", denominators=values, statistic="median")


def test_order_columns_keeps_every_column_once():
    shuffled = ["own", "unit", "n", "head", "value", "subject", "layer", "other"]
    ordered = frames.order_columns(pd.DataFrame([[0] * 8], columns=shuffled))
    assert list(ordered.columns) == ["subject", "layer", "head", "value", "n", "unit", "own", "other"]


def test_statistics_do_not_import_torch():
    code = "import sys, crosslens.analyses.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bootstrap_of_a_statistic():
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=(60, 2)), np.repeat(np.arange(20), 3)
    mean = stats.bootstrap_statistic(values, groups, lambda m: m, n_boot=500)
    expected = stats.group_bootstrap(values, groups, n_boot=500)
    for mine, theirs in zip(mean, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)
    square = stats.bootstrap_statistic(values, groups, lambda m: m**2)
    np.testing.assert_allclose(square.value, values.mean(0) ** 2)
    many = stats.bootstrap_statistic(values, np.arange(60), lambda m: m**2)
    assert (many.lower >= 0).all()  # draws of a square
    alone = stats.bootstrap_statistic(values, np.zeros(60), lambda m: m)
    assert np.isnan(alone.lower).all()
    with pytest.raises(ValueError, match="NaN"):
        stats.bootstrap_statistic(np.full((3, 1), np.nan), [0, 1, 2], lambda m: m)
