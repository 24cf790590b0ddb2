"""Principal components of states, many states at once: those of a full decomposition, to single precision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NONE = 1e-7  # of the largest variance: a component below has none
EXACT = 256  # rows of a matrix that is decomposed in double precision; larger ones in single, which is twice as fast


def components(
    train: Float[Tensor, "state n d"], test: Float[Tensor, "state m d"], count: int
) -> tuple[Float[Tensor, "state n k"], Float[Tensor, "state m k"]]:
    """Standardised, on the training examples' principal components, k at most `count`, n or d, in units in which a
    training example's mean square is 1. Components without variance are 0.
    """
    x, held_out = _standardised(train, test)
    many = min(count, *x.shape[1:])
    # The smaller of X Xᵀ and Xᵀ X: both have the same eigenvalues, and each gives the other's vectors.
    few = x.shape[1] <= x.shape[2]
    square = x @ x.mT if few else x.mT @ x
    values, vectors = torch.linalg.eigh(square.double() if square.shape[1] <= EXACT else square)
    values, vectors = values[:, -many:].flip(-1).float(), vectors[:, :, -many:].flip(-1).float()
    values = values.where(values > NONE * values[:, :1], 0.0).clamp_min(0.0)
    there = (values > 0)[:, None]
    if few:
        vectors = x.mT @ (vectors / values.sqrt()[:, None].where(there, 1.0))
    vectors = vectors.where(there, 0.0)
    scale = (values.sum(-1) / (x.shape[1] * many)).sqrt()[:, None, None]
    vectors = vectors / scale.where(scale > 0, 1.0)
    return x @ vectors, held_out @ vectors


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """By mean and standard deviation of the training examples; a channel that is constant stays 0."""
    mean, spread = train.mean(1, keepdim=True, dtype=torch.double), train.double().std(1, correction=0, keepdim=True)
    constant = spread <= 1e-12 * mean.abs().clamp_min(1e-30)
    spread = spread.masked_fill(constant, torch.inf)
    return ((train - mean) / spread).float(), ((test - mean) / spread).float()
