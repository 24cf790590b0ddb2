"""Laws of sinks in the residual."""

import math

import pytest
import torch
from crosslens.analyses import metrics
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ...helpers.patterns import BAD_SHAPE, generator, quick, seeds


def planted_resid(seed: int = 0) -> tuple[Tensor, Tensor]:
    resid = 0.1 * torch.randn(3, 2, 5, 16, generator=generator(seed))
    mask = torch.tensor([[True] * 5, [False, False, True, True, True]])
    resid[1, 0, 0, 7] = -900.0
    resid[2, 1, 2, 3] = 500.0
    resid[1, 1, 0, 11] = 5000.0  # at padding
    return resid, mask


def test_sink_dimensions_finds_what_was_planted_largest_first():
    resid, mask = planted_resid()
    assert metrics.sink_dimensions(resid, mask) == [7, 3]
    assert metrics.sink_dimensions(resid, mask, max_dims=1) == [7]
    assert metrics.sink_dimensions(resid, mask, min_abs=600) == [7]
    assert metrics.sink_dimensions(resid, mask, min_ratio=1e6) == []
    assert metrics.sink_dimensions(resid, torch.ones_like(mask)) == [11, 7, 3]
    assert metrics.sink_dimensions(resid.bfloat16(), mask) == [7, 3]
    assert metrics.sink_dimensions(resid.half(), mask) == [7, 3]


def test_sink_dimensions_finds_nothing_where_nothing_is():
    resid = 200 * torch.randn(3, 2, 5, 16, generator=generator(1))
    assert metrics.sink_dimensions(resid, torch.ones(2, 5, dtype=torch.bool)) == []


def test_streamed_peaks_give_the_same_dimensions():
    resid, mask = planted_resid()
    halves = [[metrics.dimension_peaks(layer[i : i + 1], mask[i : i + 1]) for layer in resid] for i in (0, 1)]
    peaks = torch.stack([torch.stack([peak for peak, _ in half]) for half in halves]).amax(0)
    medians = torch.stack([torch.stack([median for _, median in half]) for half in halves]).mean(0)
    assert metrics.massive_dimensions(peaks, medians) == [7, 3]


def test_sink_dimensions_refuses_nonsense():
    resid, mask = planted_resid()
    with pytest.raises(ValueError, match="no real token"):
        metrics.sink_dimensions(resid, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="max_dims"):
        metrics.sink_dimensions(resid, mask, max_dims=0)
    with pytest.raises(BAD_SHAPE):
        metrics.sink_dimensions(resid[0], mask)
    with pytest.raises(BAD_SHAPE):
        metrics.sink_dimensions(resid, mask.long())


def test_sink_values_by_hand_and_against_a_loop():
    one_hot = torch.zeros(1, 1, 16)
    one_hot[..., 3] = -50.0
    assert metrics.sink_values(one_hot, [3]).item() == pytest.approx(4.0)
    assert metrics.sink_values(one_hot, [2]).item() == 0.0
    x = torch.randn(2, 3, 16, generator=generator(0))
    phi = metrics.sink_values(x, (1, 5), eps=0.5)
    for b in range(2):
        for p in range(3):
            rms = math.sqrt(float((x[b, p] ** 2).mean()) + 0.5)
            assert phi[b, p].item() == pytest.approx(max(abs(x[b, p, 1]), abs(x[b, p, 5])).item() / rms)


@quick
@given(seeds, st.floats(0.1, 100))
def test_sink_values_are_bounded_and_blind_to_scale(seed, scale):
    x = torch.randn(2, 3, 8, generator=generator(seed)) ** 5
    phi = metrics.sink_values(x, range(8), eps=0.0)
    assert ((phi >= 1 - 1e-5) & (phi <= math.sqrt(8) + 1e-5)).all()
    torch.testing.assert_close(metrics.sink_values(scale * x, range(8), eps=0.0), phi)
    share = metrics.energy_share(phi, 8)
    torch.testing.assert_close(share, x.square().amax(-1) / x.square().sum(-1))


def test_sink_values_of_float16_do_not_overflow():
    x = torch.zeros(1, 1, 16, dtype=torch.float16)
    x[..., 0] = 60000.0
    phi = metrics.sink_values(x, [0])
    assert phi.dtype == torch.float32
    assert phi.item() == pytest.approx(4.0)


@pytest.mark.parametrize("dims", [[], [16], [-1]])
def test_sink_values_refuse_dimensions_that_are_not_there(dims):
    with pytest.raises(ValueError, match="dims"):
        metrics.sink_values(torch.zeros(1, 1, 16), dims)


def test_gap_threshold_is_the_geometric_mean():
    assert metrics.gap_threshold(20.0, 0.2) == pytest.approx(2.0)
    for bad in ((0.0, 1.0), (1.0, -1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="positive"):
            metrics.gap_threshold(*bad)
