"""Laws of effects of interventions."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given
from hypothesis import strategies as st

from ...helpers.patterns import BAD_SHAPE, generator, quick, seeds


def test_percent_change():
    after, before = torch.tensor([0.5, 3.0, 1.0]), torch.tensor([1.0, 2.0, 0.0])
    change = metrics.percent_change(after, before)
    assert change[:2].tolist() == [-50.0, 50.0]
    assert change[2].isnan()
    assert metrics.percent_change(torch.ones(4, 3), before).shape == (4, 3)
    assert metrics.percent_change(0.4, 1).item() == pytest.approx(-60)
    with pytest.raises(ValueError, match="broadcast"):
        metrics.percent_change(after, torch.ones(2))


def test_normalized_effect_takes_means_first():
    clean, donor = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 9.0])
    assert metrics.normalized_effect(clean, clean, donor).item() == 0
    assert metrics.normalized_effect(donor, clean, donor).item() == 1
    # The mean of ratios would be (1/1 + 0/7)/2 = 0.5.
    assert metrics.normalized_effect(torch.tensor([1.0, 2.0]), clean, donor).item() == pytest.approx(1 / 8)
    assert metrics.normalized_effect(torch.zeros(5, 4, 2), clean, donor).shape == (5, 4)
    assert metrics.normalized_effect(donor, clean, clean).isnan()


def test_normalized_effect_leaves_missing_examples_out_of_every_mean():
    clean, donor = torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 9.0, 3.0])
    patched = torch.tensor([[1.0, 4.0, math.nan], [math.nan] * 3])
    found = metrics.normalized_effect(patched, clean, donor)
    torch.testing.assert_close(found[0], metrics.normalized_effect(patched[0, :2], clean[:2], donor[:2]))
    assert found[1].isnan()
    with pytest.raises(BAD_SHAPE):
        metrics.normalized_effect(patched, clean[:2], donor)
    with pytest.raises(BAD_SHAPE):
        metrics.normalized_effect(patched[:, :0], clean[:0], donor[:0])


@quick
@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
def test_normalized_effect_is_affine_invariant(seed, scale, shift):
    rng = generator(seed)
    patched, clean = torch.randn(3, 4, generator=rng), torch.randn(4, generator=rng)
    donor = clean + 1 + torch.rand(4, generator=rng)
    moved = [scale * x + shift for x in (patched, clean, donor)]
    expected = metrics.normalized_effect(patched, clean, donor)
    torch.testing.assert_close(metrics.normalized_effect(*moved), expected, rtol=1e-3, atol=1e-3)


def test_top_heads_by_size_of_either_sign_with_ties_in_order():
    effects = torch.tensor([[0.1, -0.9, 0.5], [0.5, 0.0, -0.5]])
    assert metrics.top_heads(effects, 0.5) == [(0, 1), (0, 2), (1, 0)]
    assert metrics.top_heads(effects, 0.001) == [(0, 1)]
    assert metrics.top_heads(effects, 1) == [(0, 1), (0, 2), (1, 0), (1, 2), (0, 0), (1, 1)]
    assert metrics.top_heads(effects.half(), 0.5) == [(0, 1), (0, 2), (1, 0)]
    assert len(metrics.top_heads(torch.zeros(30, 9), 0.02)) == 5
    for share in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="share"):
            metrics.top_heads(effects, share)
    with pytest.raises(ValueError, match="NaN"):
        metrics.top_heads(torch.full((2, 2), math.nan), 0.5)
    with pytest.raises(BAD_SHAPE):
        metrics.top_heads(effects[0], 0.5)
