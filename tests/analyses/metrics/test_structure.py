"""Laws of the structure of maps: null models in closed form, padding, bounds, brute force."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from torch import Tensor

from ...helpers.patterns import LENGTHS, SIZE, assert_lists_close, generator, ragged


def uniform(n: int) -> tuple[Tensor, Tensor]:
    mask = torch.ones(1, n, dtype=torch.bool)
    return metrics.uniform_pattern(metrics.causal_visibility(mask)), mask


INDICATORS = {
    "entropy": metrics.head_entropy,
    "mean entropy": metrics.entropy_of_head_mean,
    "concentration": metrics.concentration,
    "diversity": metrics.head_diversity,
    "sink": metrics.first_token_attention,
    "focus": lambda pattern, mask: metrics.local_focus(pattern, mask, 2),
}


@pytest.mark.parametrize("name", INDICATORS)
def test_indicators_do_not_depend_on_padding_or_batch(name):
    (left, left_mask), (right, right_mask) = ragged("left", pad=0.25), ragged("right", pad=math.nan)
    value = INDICATORS[name](left, left_mask)
    torch.testing.assert_close(INDICATORS[name](right, right_mask), value)
    alone = []
    for i, n in enumerate(LENGTHS):
        real = left[i : i + 1, :, SIZE - n :, SIZE - n :]
        alone.append(INDICATORS[name](real, torch.ones(1, n, dtype=torch.bool))[0])
    assert_lists_close(alone, list(value))


@pytest.mark.parametrize("n", [5, 20, 100])
def test_uniform_attention_has_the_indicators_of_the_formula(n):
    pattern, mask = uniform(n)
    terms = torch.arange(1, n + 1, dtype=torch.float64)
    harmonic = float((1 / terms).sum())
    assert metrics.head_entropy(pattern, mask).item() == pytest.approx(float(terms.log().mean()), rel=1e-5)
    assert metrics.concentration(pattern, mask).item() == pytest.approx(math.sqrt(harmonic), rel=1e-5)
    assert metrics.first_token_attention(pattern, mask).item() == pytest.approx(harmonic / n, rel=1e-5)
    assert metrics.head_diversity(pattern, mask).item() == 0.0
    for d in range(4):
        expected = float((1 / terms[d:]).sum()) / (n - d)
        assert metrics.local_focus(pattern, mask, d).item() == pytest.approx(expected, rel=1e-5)


def test_local_focus_is_undefined_beyond_the_text():
    pattern, mask = ragged("left")
    assert metrics.local_focus(pattern, mask, 3)[2].isnan().all()
    assert not metrics.local_focus(pattern, mask, 2).isnan().any()
    with pytest.raises(ValueError, match="below 0"):
        metrics.local_focus(pattern, mask, -1)


def test_entropy_of_the_mean_is_never_below_the_mean_of_entropies():
    pattern, mask = ragged("left")
    means = metrics.head_entropy(pattern, mask).mean(1)
    assert (metrics.entropy_of_head_mean(pattern, mask) >= means - 1e-5).all()
    same = pattern[:, :1].expand(-1, 4, -1, -1)
    torch.testing.assert_close(
        metrics.entropy_of_head_mean(same, mask), metrics.head_entropy(same, mask)[:, 0], atol=1e-4, rtol=0
    )


def test_overload_counts_heads_above_three_quarters():
    entropies = torch.tensor([[0.1, 0.3, 0.74], [0.76, 1.0, 0.25]])
    assert metrics.overloaded_heads(entropies).tolist() == [[False, False, False], [True, True, False]]
    assert metrics.middle_heads(entropies).tolist() == [[False, True, True], [False, False, True]]
    assert metrics.overloaded_heads(entropies, 2.0).sum() == 0
    assert metrics.overloaded_heads(torch.full((2, 2), 0.01)).all()


def test_length_scale_is_one_within_the_trained_length_and_then_grows():
    scale = metrics.length_scale(torch.tensor([0, 10, 99, 100, 9999]), 100)
    assert scale[:3].tolist() == [1.0, 1.0, 1.0]
    assert 1.0 < scale[3] < scale[4]
    assert scale[4].item() == pytest.approx(2.0)


def planted_mixture(n: int, weights: Tensor) -> Tensor:
    """A head that is a sum of self, previous, first and a constant on the visible entries, not a distribution."""
    parts = torch.stack([torch.eye(n), torch.eye(n).roll(-1, 1).tril(-1), torch.zeros(n, n), torch.ones(n, n)])
    parts[2, :, 0] = 1.0
    return (weights[:, None, None] * parts).sum(0).tril()


def test_trivial_fit_finds_planted_weights_exactly():
    weights = torch.tensor([0.5, 0.25, -0.125, 0.0625])
    pattern = planted_mixture(9, weights)[None, None]
    mask = torch.ones(1, 9, dtype=torch.bool)
    fit = metrics.fit_trivial(pattern, mask)
    torch.testing.assert_close(fit.coefficients[0], weights[:3])
    torch.testing.assert_close(fit.intercept[0], weights[3])
    assert fit.r2.item() == pytest.approx(1.0)
    assert metrics.trivial_residual(pattern, mask, fit).abs().max() < 1e-6


def test_trivial_fit_equals_least_squares_over_all_texts_whatever_the_padding():
    (left, left_mask), (right, right_mask) = ragged("left"), ragged("right")
    fit = metrics.fit_trivial(left, left_mask)
    assert_lists_close(list(metrics.fit_trivial(right, right_mask)), list(fit))
    rows, values = [], []
    for i, n in enumerate(LENGTHS):
        for q in range(n):
            for k in range(q + 1):
                rows.append([float(k == q), float(k == q - 1), float(k == 0), 1.0])
                values.append(right[i, :, q, k])
    design, target = torch.tensor(rows, dtype=torch.float64), torch.stack(values).double()
    solution = torch.linalg.lstsq(design, target).solution
    unexplained = (target - design @ solution).square().sum(0)
    variation = (target - target.mean(0)).square().sum(0)
    torch.testing.assert_close(fit.r2.double(), 1 - unexplained / variation, atol=1e-5, rtol=0)
    torch.testing.assert_close(fit.coefficients.double(), solution[:3].T, atol=1e-5, rtol=0)


def test_trivial_fit_of_a_constant_head_is_undefined():
    pattern = torch.full((1, 1, 5, 5), 0.5).tril()
    assert metrics.fit_trivial(pattern, torch.ones(1, 5, dtype=torch.bool)).r2.isnan().all()


@pytest.mark.parametrize("n", [6, 30])
def test_attention_rank_measures_the_mask(n):
    pattern, _ = uniform(n)
    first = torch.zeros(n, n)
    first[:, 0] = 1.0
    assert metrics.attention_rank(torch.stack([pattern[0, 0], first, torch.eye(n)])).tolist() == [n - 1, 1, 0]


def test_ranks_of_matrices_with_known_spectra():
    rng = generator(0)
    q, r = (torch.linalg.qr(torch.randn(8, 8, generator=rng, dtype=torch.float64)).Q for _ in range(2))
    equal = q[:, :5] @ r[:, :5].T
    for rank in (metrics.stable_rank, metrics.effective_rank, metrics.participation_ratio):
        assert rank(equal).item() == pytest.approx(5.0)
        assert rank(3 * equal.T).item() == pytest.approx(5.0)
        assert rank(torch.outer(q[0], r[0])).item() == pytest.approx(1.0)
        wide = torch.randn(4, 7, generator=rng)
        assert 1 <= rank(wide).item() <= 4


def test_spectral_gap_of_a_causal_map_is_its_diagonal():
    pattern, _ = ragged("right", pad=0.0)
    full = pattern[0].double()
    gaps = metrics.spectral_gap(full)
    torch.testing.assert_close(gaps, 1 - full.diagonal(dim1=1, dim2=2)[:, 1:].amax(1))
    eigenvalues = torch.linalg.eigvals(full).abs().sort(dim=-1, descending=True).values
    torch.testing.assert_close(gaps, 1 - eigenvalues[:, 1], atol=1e-6, rtol=0)
    assert metrics.spectral_gap(torch.full((6, 6), 1 / 6)).item() == pytest.approx(1.0, abs=1e-6)
    assert metrics.spectral_gap(torch.eye(3)[[1, 2, 0]]).item() == pytest.approx(0.0, abs=1e-6)


def test_log_attention_variance_is_that_of_the_scores_within_a_row():
    scores = torch.randn(2, 1, 50, generator=generator(2), dtype=torch.float64)
    visible = torch.ones(1, 50, dtype=torch.bool)
    value = metrics.log_attention_variance(scores.softmax(-1), visible)
    torch.testing.assert_close(value, scores[:, 0].var(-1, correction=0))
    torch.testing.assert_close(metrics.log_attention_variance((2 * scores).softmax(-1), visible), 4 * value)


def test_spectrum_snr_falls_with_the_scale_and_sees_a_planted_signal():
    noise = torch.randn(40, 60, generator=generator(3), dtype=torch.float64)
    column, row = (torch.randn(n, generator=generator(n), dtype=torch.float64) for n in (40, 60))
    planted = noise + 3 * torch.outer(column, row)
    torch.testing.assert_close(metrics.spectrum_snr(10 * planted), metrics.spectrum_snr(planted) / 10)
    values = torch.linalg.svdvals(planted)
    assert int((values > metrics.noise_edge(noise)).sum()) == 1
    assert int((torch.linalg.svdvals(noise) > 1.05 * metrics.noise_edge(noise)).sum()) == 0
    with pytest.raises(ValueError, match="zero matrix"):
        metrics.spectrum_snr(torch.zeros(3, 4))
