"""Logistic regression with an L2 penalty, of many states and many labellings at once.

The same optimum as scikit-learn's `LogisticRegression(C=c)`. It is fitted on principal components, whose columns are
orthogonal: the Hessian is bounded by a diagonal one (Böhning and Lindsay 1988), which makes accelerated gradient steps
nearly as good as Newton's, without a line search and for all problems together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

STEPS, CLOSE = 300, 5e-3  # of the solver: at most so many, or until no weight moves further


class Fitted(NamedTuple):
    """weights: [state, k, class, labelling]; biases: [state, class, labelling], −inf for a class never seen."""

    weights: Tensor
    biases: Tensor

    def said(self, x: Float[Tensor, "state n k"]) -> Int[Tensor, "labelling state n"]:
        """The likeliest class of each example."""
        return _logits(x, self.weights, self.biases).argmax(2).movedim(2, 0)


def fitted(x: Float[Tensor, "state n k"], codes: Int[Tensor, "labelling n"], c: float) -> Fitted:
    """x: columns with mean 0, orthogonal to each other. codes: classes from 0 on, −1 for examples without a label."""
    # Classes before labellings: a softmax over a short last axis takes eighteen times as long.
    right = torch.nn.functional.one_hot(codes.T + 1)[..., 1:].mT.to(x.dtype).contiguous()
    there, seen = right.sum(1, keepdim=True), right.sum(0) > 0
    never = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, -torch.inf)
    # Two classes have one weight in scikit-learn, and two of opposite sign here: twice the penalty is the same.
    penalty = torch.where(seen.sum(0) == 2, 2.0, 1.0).to(x.dtype)
    steepest = penalty + c / 2 * x.square().sum(1)[..., None, None]

    def step(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        missed = (_logits(x, w, b + never).softmax(2) - right) * there
        slope = c * (x.mT @ missed.flatten(2)).view_as(w) + penalty * w
        return w - slope / steepest, b - missed.sum(1) * (2 / x.shape[1])

    w, b = _accelerated(step, x.new_zeros(len(x), x.shape[2], *seen.shape), x.new_zeros(len(x), *seen.shape))
    return Fitted(w, b + never)


def _logits(x: Tensor, w: Tensor, b: Tensor) -> Float[Tensor, "state n class labelling"]:
    return (x @ w.flatten(2)).unflatten(-1, w.shape[2:]) + b[:, None]


def _accelerated(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], w: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """Nesterov's steps, begun anew for each problem wherever they overshoot (O'Donoghue and Candès 2015)."""
    ahead, age = (w, b), w.new_zeros(w.shape[0], w.shape[3])
    for _ in range(STEPS):
        new_w, new_b = step(*ahead)
        by_w, by_b = new_w - w, new_b - b
        over = ((ahead[0] - new_w) * by_w).sum((1, 2)) + ((ahead[1] - new_b) * by_b).sum(1) > 0
        w, b = new_w, new_b
        if max(float(by_w.abs().max()), float(by_b.abs().max())) < CLOSE:
            break
        age = torch.where(over, 0.0, age + 1)
        push = (age / (age + 3))[:, None]
        ahead = w + push[:, None] * by_w, b + push * by_b
    return w, b
