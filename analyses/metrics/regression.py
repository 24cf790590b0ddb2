"""Heads that regress in context: the loss of a one-layer model in closed form, and the sign pattern of its weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._checks import require, require_shape, widen


def regression_loss(
    omega: Float[Tensor, "h"],
    mu: Float[Tensor, "h"],
    *,
    context_length: int,
    noise_variance: float | int,
    d: int,
) -> Float[Tensor, ""]:
    """Loss of in-context linear regression by softmax heads: 1 + σ² − 2 μ·ω + μᵀ A μ, units of the label's variance.

    omega: KQ = ω_h I of each head; mu: its OV on the label; d: width of the inputs; A as in `_overlap`.
    Source: Pan et al., code (XintianPan/ICL_linear). Errors: ValueError for unequal shapes or a context below 1.
    """
    require_shape("mu", mu, *omega.shape)
    w, m = widen(omega), widen(mu)
    return 1 + noise_variance - 2 * m @ w + m @ _overlap(w, context_length, noise_variance, d) @ m


def best_output_weights(
    omega: Float[Tensor, "h"], *, context_length: int, noise_variance: float | int, d: int
) -> Float[Tensor, "h"]:
    """The μ of least `regression_loss`: A⁻¹ ω. Heads of equal ω have no single answer: a singular matrix is an error.

    Source: Pan et al., code.
    """
    w = widen(omega)
    return torch.linalg.solve(_overlap(w, context_length, noise_variance, d), w)


def _overlap(omega: Tensor, context_length: int, noise_variance: float | int, d: int) -> Tensor:
    """A = ω ωᵀ + (1 + σ²)/L · exp(d ω ωᵀ), the exponential entry by entry."""
    require(context_length >= 1, f"context_length = {context_length} is below 1")
    outer = torch.outer(omega, omega)
    return outer + (1 + noise_variance) / context_length * (d * outer).exp()


def diagonal_share(block: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Squared share of a square matrix on its diagonal, 0…1; 1/d by chance. NaN for zeros. Source: Pan et al., note."""
    wide = widen(block)
    return wide.diagonal().square().sum() / wide.square().sum()


def diagonal_variation(block: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Standard deviation (divisor d) / |mean| of the diagonal, ≥ 0: 0 for a multiple of I. Source: Pan et al., note."""
    diagonal = widen(block).diagonal()
    return diagonal.std(correction=0) / diagonal.mean().abs()


def zero_sum(mu: Float[Tensor, "h"]) -> Float[Tensor, ""]:
    """|Σ μ| / Σ |μ|, 0…1: 0 where heads cancel. NaN for zeros. Source: Pan et al., note."""
    return widen(mu).sum().abs() / widen(mu).abs().sum()
