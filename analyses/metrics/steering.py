"""Edits that steer: directions added or taken away, weights on keys, learned edits of heads. Pure tensors, no hooks."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require, require_mask, require_shape, widen


def difference_of_means(positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Float[Tensor, "d"]:
    """Steering direction: mean state of the positive examples − mean of the negative; units of the states.

    Added as x + α d, d not normalised; removed by `project_out`. Source: standard, from memory.
    Errors: ValueError for unequal widths or an empty set.
    """
    require(positive.shape[-1] == negative.shape[-1], f"widths {positive.shape[-1]} and {negative.shape[-1]}")
    require(len(positive) > 0 and len(negative) > 0, "a set holds no states")
    return widen(positive).mean(0) - widen(negative).mean(0)


def project_out(x: Float[Tensor, "*batch d"], direction: Float[Tensor, "d"]) -> Float[Tensor, "*batch d"]:
    """Directional ablation x − (x · u) u, u the direction's unit vector. Errors: ValueError for a zero direction."""
    require_shape("direction", direction, x.shape[-1])
    require(bool(direction.norm() > 0), "direction is zero")
    unit = widen(direction) / widen(direction).norm()
    return widen(x) - (widen(x) @ unit)[..., None] * unit


def spread_along(
    positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"], direction: Float[Tensor, "d"]
) -> Float[Tensor, ""]:
    """Pooled standard deviation of two sets along a direction (divisor n + m − 2), units of the states: the unit of α.

    Errors: ValueError for unequal widths, sets of fewer than two states, a zero direction.
    """
    require(len(positive) >= 2 and len(negative) >= 2, "a set holds fewer than two states")
    require(bool(direction.norm() > 0), "direction is zero")
    unit = widen(direction) / widen(direction).norm()
    along = [widen(states) @ unit for states in (positive, negative)]
    squares = sum((x - x.mean()).square().sum() for x in along)
    return torch.as_tensor(squares / (len(positive) + len(negative) - 2)).sqrt()


def d_prime(positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """d′: distance of the two means over `spread_along` their difference, ≥ 0. Errors: as in `spread_along`."""
    direction = difference_of_means(positive, negative)
    return direction.norm() / spread_along(positive, negative, direction)


def emphasize_keys(
    scores: Float[Tensor, "*batch k"], highlighted: Bool[Tensor, "k"], prompt: Bool[Tensor, "k"], alpha: float | int
) -> Float[Tensor, "*batch k"]:
    """PASTA: ln α added to the scores before the softmax at prompt keys outside the highlighted ones, all spans as one.

    Same as weighting those keys by α after the softmax and dividing by the row's sum. Generated keys stay.
    Source: arXiv 2311.02262 (PASTA), code, which adds once per span, so that spans damp each other: a slip.
    Errors: ValueError for unequal shapes or α not above 0.
    """
    require(alpha > 0, f"alpha = {alpha} is not positive")
    require_mask("highlighted", highlighted, scores.shape[-1])
    require_mask("prompt", prompt, scores.shape[-1])
    return widen(scores) + math.log(alpha) * (prompt & ~highlighted)


def reweight_keys(pattern: Float[Tensor, "*batch k"], weights: Float[Tensor, "k"]) -> Float[Tensor, "*batch k"]:
    """Attention after the softmax × weight of the key, rows divided by their sum: the same as scores + ln weights.

    Rows of zeros stay. Errors: ValueError for unequal widths or weights below 0.
    """
    require_shape("weights", weights, pattern.shape[-1])
    require(bool((weights >= 0).all()), "a weight is negative")
    weighted = widen(pattern) * weights
    total = weighted.sum(-1, keepdim=True)
    return weighted / total.masked_fill(total == 0, 1.0)


def edit_heads(
    z: Float[Tensor, "*batch h d"], scale: Float[Tensor, "h d"], offset: Float[Tensor, "h d"]
) -> Float[Tensor, "*batch h d"]:
    """LoFiT: z ⊙ (1 + a) + v before W_O, at every position; a: scale, v: offset.

    Source: arXiv 2406.01563 (LoFiT), code. Errors: ValueError for unequal shapes.
    """
    require_shape("scale", scale, *z.shape[-2:])
    require_shape("offset", offset, *z.shape[-2:])
    return widen(z) * (1 + scale) + offset


def edit_strength(scale: Float[Tensor, "*heads d"]) -> Float[Tensor, "*heads"]:
    """LoFiT's score of a head: ‖a‖₂ of its learned scale, ≥ 0; it ignores ‖z‖. Source: arXiv 2406.01563, code."""
    return widen(scale).norm(dim=-1)
