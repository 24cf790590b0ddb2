"""The tuned lens: for every state an affine translator to the last one, then the model's own norm and unembedding.

translator(x) = x + x · A + b, started at the identity (A = 0, b = 0) or at the closed form, ridge regression of what
is missing to the last state; then descent on KL(model ‖ lens). Tuned-lens-style (arXiv 2303.08112).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.model.head import rows_at_once, vocabulary
from ..common.descent import Descent, Weights, descend, frozen, kl_to
from ._lens_words import whole_target

RIDGE = 1e-3  # penalty, in units of the mean diagonal of the Gram matrix


def identity(width: int) -> Weights:
    return {"A": torch.zeros(width, width), "b": torch.zeros(width)}


@torch.no_grad()
def ridge(states: Float[Tensor, "n d"], final: Float[Tensor, "n d"], penalty: float = RIDGE) -> Weights:
    """argmin ‖final − states − states · A − b‖² + λ ‖A‖²: shrinks to the identity, computed in float64."""
    x, y = states.double(), (final - states).double()
    mean, centre = x.mean(0), y.mean(0)
    gram = (x - mean).T @ (x - mean)
    eye = torch.eye(len(gram), dtype=gram.dtype)
    A = torch.linalg.solve(gram + penalty * gram.diagonal().mean() * eye, (x - mean).T @ (y - centre))
    return {"A": A.float(), "b": (centre - mean @ A).float()}


def translate(weights: Weights, states: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """States as if they were the last: norm and unembedding come behind."""
    return states.float() + states.float() @ weights["A"] + weights["b"]


def logits(subject: Any, weights: Weights, states: Float[Tensor, "*n d"]) -> Float[Tensor, "*n vocab"]:
    return subject.unembed(subject.norm(translate(weights, states).to(states.dtype)))


def train(
    subject: Any,
    state: int,
    states: Float[Tensor, "n d"],
    final: Float[Tensor, "n d"],
    begin: str,
    descent: Descent,
    checkpoint: Path,
) -> tuple[Weights, list[float]]:
    """The translator of one state, and the loss of every step. begin: "ridge" or "identity"."""
    at_once = rows_at_once(vocabulary(subject.model))
    first = ridge(states, final) if begin == "ridge" else identity(states.shape[-1])

    target = whole_target(subject, final)

    def loss(weights: Weights, rows: Tensor) -> Tensor:
        return kl_to(target(rows), logits(subject, weights, states[rows]))

    with frozen(subject.model):
        return descend(first, loss, len(states), descent, checkpoint, f"tuned lens, state {state}", at_once)
