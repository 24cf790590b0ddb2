"""What a model could do without: modules that hardly turn the residual, image tokens, weights, texture of states."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import require, require_shape, widen
from .similarity import cosine


def cosine_importance(before: Float[Tensor, "*batch d"], after: Float[Tensor, "*batch d"]) -> Float[Tensor, ""]:
    """1 − mean over tokens of cos(before, after), 0…2: a module is important as far as it turns the residual.

    before, after: the residual at real tokens before and after the module's output was added (the whole block: entering
    and leaving it). Leave the first token out. Deep layers look redundant because the residual grows: compare with
    `orthogonal_importance`. NaN for zero states. Source: arXiv 2406.15786, code. Errors: ValueError for unequal shapes.
    """
    return 1 - cosine(before, after).mean()


def orthogonal_importance(residual: Float[Tensor, "*batch d"], update: Float[Tensor, "*batch d"]) -> Float[Tensor, ""]:
    """`cosine_importance` of an update of the same norm but orthogonal: 1 − mean 1/√(1 + (‖f‖/‖x‖)²), 0…1.

    The null of `cosine_importance`. Errors: ValueError for unequal shapes.
    """
    require_shape("update", update, *residual.shape)
    ratio = widen(update).norm(dim=-1) / widen(residual).norm(dim=-1)
    return 1 - (1 + ratio.square()).rsqrt().mean()


def feature_entropy(
    features: Float[Tensor, "n d"], *, base: float | int | None = None, correction: int = 0
) -> Float[Tensor, ""]:
    """Entropy of n examples' features up to constants: Σ over channels of ln std over examples; any sign.

    base: of the logarithm, natural by default; correction: divisor n − correction. Gaussian and diagonal: correlations
    are ignored, and scale counts. −∞ where a channel is constant. The class-head variant of the code: base 2,
    correction 1. Source: arXiv 2404.05657 (NOSE), code. Errors: ValueError for too few examples.
    """
    require(len(features) > max(correction, 1), f"{len(features)} examples are too few")
    nats = widen(features).std(0, correction=correction).log().sum()
    return nats if base is None else nats / math.log(base)


def transfer_entropy(features: Float[Tensor, "n d"], masked: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How much the final features' `feature_entropy` changes when a layer's attention is masked: |difference|, nats.

    Source: arXiv 2404.05657 (NOSE), code; layers of least change are dropped. Errors: ValueError for unequal shapes.
    """
    require_shape("masked", masked, *features.shape)
    return (feature_entropy(masked) - feature_entropy(features)).abs()


def collapse_distance(
    a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"], chunk: int = 64
) -> Float[Tensor, "*batch"]:
    """Mean over chunks of the channels of the largest |a − b| in a chunk, ≥ 0, units of the states.

    a, b: last states after the final norm of a prompt whose last token stands n and n + 1 times; the figure divides by
    the value at the first n. A last chunk may be shorter. Chunks mean nothing in the residual stream: see
    `relative_distance`. Source: arXiv 2411.07176, code (64 of 768). Errors: ValueError for unequal shapes, chunk < 1.
    """
    require_shape("b", b, *a.shape)
    require(chunk >= 1, f"chunk = {chunk} is below 1")
    parts = (widen(a) - widen(b)).abs().split(chunk, -1)
    return torch.stack([part.amax(-1) for part in parts]).mean(0)


def relative_distance(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖a − b‖ / ½(‖a‖ + ‖b‖), 0…2; NaN where both are zero. Errors: ValueError for unequal shapes."""
    require_shape("b", b, *a.shape)
    x, y = widen(a), widen(b)
    return 2 * (x - y).norm(dim=-1) / (x.norm(dim=-1) + y.norm(dim=-1))


class Exit(NamedTuple):
    """agreement: share of unchanged greedy tokens. losses: mean −ln p of the labels. allowed: may the image go?"""

    agreement: Float[Tensor, ""]
    loss_clean: Float[Tensor, ""]
    loss_exited: Float[Tensor, ""]
    allowed: bool


def visual_exit(
    clean: Float[Tensor, "p vocab"],
    exited: Float[Tensor, "p vocab"],
    labels: Int[Tensor, "p"],
    *,
    tolerance: float | int = 1.03,
    ignored: int = -100,
) -> Exit:
    """May the image tokens be removed after a layer? Yes if no greedy token changes and the loss stays near.

    clean, exited: logits of one sequence with and without them; row p predicts label p + 1, `ignored` labels do not
    count. allowed: all counted greedy tokens equal, and the loss below `tolerance` × the clean one.
    Source: arXiv 2411.19628 (DyVTE), code. Errors: ValueError for unequal shapes or without a counted label.
    """
    require_shape("exited", exited, *clean.shape)
    require_shape("labels", labels, len(clean))
    counted = labels[1:] != ignored
    require(bool(counted.any()), "labels holds no token that counts")
    rows = [widen(logits)[:-1][counted] for logits in (clean, exited)]
    agreement = (rows[0].argmax(-1) == rows[1].argmax(-1)).double().mean()
    wanted = labels[1:][counted].long()
    before, after = (torch.nn.functional.cross_entropy(logits, wanted) for logits in rows)
    return Exit(agreement, before, after, bool(agreement == 1 and after < tolerance * before))


def used_weights(
    weight: Float[Tensor, "out into"], inputs: Float[Tensor, "*batch into"], sparsity: float | int
) -> Bool[Tensor, "out into"]:
    """The weights that stay: |W| · ‖x‖₂ (norm of an input channel over all tokens), lowest share of each output pruned.

    ⌊into · sparsity⌋ weights of every output go, of equal ones the first. Source: arXiv 2405.16700 (IMA), code, after
    Wanda. Errors: ValueError for unequal widths, sparsity outside 0…1.
    """
    require(inputs.shape[-1] == weight.shape[1], f"{inputs.shape[-1]} inputs, weight reads {weight.shape[1]}")
    require(0 <= sparsity <= 1, f"sparsity = {sparsity} is outside 0…1")
    score = widen(weight).abs() * widen(inputs).reshape(-1, weight.shape[1]).norm(dim=0)
    order = score.sort(dim=-1, stable=True).indices[:, : int(weight.shape[1] * sparsity)]
    return torch.ones_like(score, dtype=torch.bool).scatter(-1, order, False)


def mask_overlap(a: Bool[Tensor, "*shape"], b: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """|a ∩ b| / |a ∪ b|, 0…1; NaN where both are empty. Random masks of share r: about r / (2 − r).

    Errors: ValueError for unequal shapes.
    """
    require_shape("b", b, *a.shape)
    return (a & b).sum() / (a | b).sum()


class UpdateRanks(NamedTuple):
    """weight, gradient: rank of each entry, 0…1. update: 0…1, 0 where the weight's rank is not below the gradient's."""

    weight: Float[Tensor, "*shape"]
    gradient: Float[Tensor, "*shape"]
    update: Float[Tensor, "*shape"]


def update_ranks(weight: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"]) -> UpdateRanks:
    """SPIDER: sigmoid of the z-score of |x| (divisor n − 1) of weights w and accumulated gradients g, and the update.

    update: g/(g + w) where w < g, divided by its mean there, at most 1. A rule for training; as a reading, the share of
    entries with w < g (½ for permuted gradients). Source: SPIDER, code. Errors: ValueError for unequal shapes, n < 2.
    """
    require_shape("gradient", gradient, *weight.shape)
    require(weight.numel() >= 2, "fewer than two entries")
    w, g = (_magnitude_rank(widen(x)) for x in (weight, gradient))
    ratio = torch.where(w < g, g / (g + w), 0.0)
    mean = ratio[ratio > 0].mean() if bool((ratio > 0).any()) else 1.0
    return UpdateRanks(w, g, (ratio / mean).clamp_max(1.0))


def _magnitude_rank(x: Tensor) -> Tensor:
    size = x.abs()
    return ((size - size.mean()) / size.std()).sigmoid()
