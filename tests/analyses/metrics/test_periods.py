"""Periods over the numbers: an orthonormal basis of whole components, and directions without which none is left."""

from __future__ import annotations

import pytest
import torch
from crosslens import metrics


@pytest.mark.parametrize("p", [3, 10, 11, 26])
def test_the_basis_is_orthonormal_and_without_the_constant(p):
    basis = metrics.period_basis(p)
    torch.testing.assert_close(basis @ basis.T, torch.eye(p - 1, dtype=torch.float64))
    assert basis.sum(1).abs().max() < 1e-12


@pytest.mark.parametrize("p", [10, 11])
def test_power_is_that_of_the_fourier_transform(p):
    logits = torch.randn(2, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    power = metrics.period_power(logits)
    fourier = torch.fft.rfft(logits).abs().square()[:, 1:] * 2 / p
    if p % 2 == 0:
        fourier[:, -1] /= 2
    torch.testing.assert_close(power, fourier)
    torch.testing.assert_close(power.sum(1), (logits - logits.mean(1, keepdim=True)).square().sum(1))


def test_without_their_directions_numbers_have_no_such_period():
    generator = torch.Generator().manual_seed(1)
    rows, output = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((10, 16), (3, 16)))
    q = metrics.period_directions(rows, [1, 5])
    assert q.shape == (16, 3)
    left = metrics.period_power((output - output @ q @ q.T) @ rows.T)
    assert left[:, [0, 4]].max() < 1e-20
    assert left[:, 1:4].min() > 1e-3
    with pytest.raises(ValueError, match="no component"):
        metrics.period_directions(rows, [])
    with pytest.raises(ValueError, match="ids are not all in"):
        metrics.period_directions(rows, [6])
