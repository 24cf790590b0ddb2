"""Numbers of weights and keys alone: composition, symmetry, what keys can be selected, updates by rank.

Row convention: queries x W_Q, keys x W_K, values x W_V, output z W_O.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require, require_shape, widen


class Composition(NamedTuple):
    """whole: score of a sender as it is, 0…1. components, singular: the same for each s_i u_i v_iᵀ of it, and s_i."""

    whole: Float[Tensor, ""]
    components: Float[Tensor, "rank"]
    singular: Float[Tensor, "rank"]


class Compositions(NamedTuple):
    """`Composition` of all pairs: whole [sender, receiver], components [sender, receiver, r], singular [sender, r]."""

    whole: Float[Tensor, "s t"]
    components: Float[Tensor, "s t r"]
    singular: Float[Tensor, "s r"]


def composition(
    sender: tuple[Float[Tensor, "d r"], Float[Tensor, "r d"]],
    receiver: tuple[Float[Tensor, "d m"], Float[Tensor, "m d"]],
) -> Composition:
    """‖OV · W‖ / (‖OV‖ ‖W‖) of a sender's OV with a receiver's W, whole and per singular component of OV.

    sender: (W_V, W_O); receiver, as factors of W: (W_Q, W_Kᵀ) for Q composition, (W_K, W_Qᵀ) for K, (W_V, W_O) for V.
    whole² = Σ (s_i² / Σ s²) component_i²; by chance both are near 1/√d. No [d, d] matrix is built. With rotary
    positions W holds at distance 0. NaN for zero weights. Source: Elhage et al. 2021; arXiv 2406.09519, style.
    Errors: ValueError for unequal d.
    """
    left, right, first, second = (one[None] for one in (*sender, *receiver))
    whole, components, singular = compositions((left, right), (first, second))
    return Composition(whole[0, 0], components[0, 0], singular[0])


def compositions(
    senders: tuple[Float[Tensor, "s d r"], Float[Tensor, "s r d"]],
    receivers: tuple[Float[Tensor, "t d m"], Float[Tensor, "t m e"]],
) -> Compositions:
    """`composition` of every sender with every receiver; what lies behind a receiver may have any width."""
    (left, right), (first, second) = ((widen(a), widen(b)) for a, b in (senders, receivers))
    require(
        right.shape[-1] == first.shape[1], f"senders write {right.shape[-1]} numbers, receivers read {len(first[0])}"
    )
    read = first @ torch.linalg.qr(second.mT).R.mT  # ‖x · read‖ = ‖x · W‖ for every row x
    s, directions = _singular_components(left, right)
    reached = directions.flatten(0, 1) @ read.transpose(0, 1).flatten(1)  # [s · r, t · m]
    sizes = reached.unflatten(1, read.shape[::2]).norm(dim=-1).unflatten(0, s.shape)  # [s, r, t]
    components = sizes.mT / read.norm(dim=(1, 2))[:, None]
    energy = s.square().sum(-1)[:, None]
    whole = ((s[:, None] * components).square().sum(-1) / energy).sqrt()
    return Compositions(whole, components, s)


def _singular_components(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [*s, r] and right singular vectors [*s, r, d] of left · right, from matrices of inner width."""
    basis, inner = torch.linalg.qr(right.mT)
    _, s, vectors = torch.linalg.svd(torch.linalg.qr(left).R @ inner.mT, full_matrices=False)
    return s, vectors @ basis.mT


def product_core(left: Float[Tensor, "*s d r"], right: Float[Tensor, "*s r e"]) -> Float[Tensor, "*s r r"]:
    """A small matrix with the singular values of left · right that are not 0: for ranks without a [d, e] matrix."""
    return torch.linalg.qr(widen(left)).R @ torch.linalg.qr(widen(right).mT).R.mT


def positive_eigenvalue_share(left: Float[Tensor, "*s d r"], right: Float[Tensor, "*s r d"]) -> Float[Tensor, "*s"]:
    """Σ Re λ / Σ |λ| over the eigenvalues of left · right, −1…1: 1 where it copies what it reads, −1 where it turns it
    round, near 0 by chance. NaN for zero weights. Source: Elhage et al. 2021 (there between embeddings).
    """
    values = torch.linalg.eigvals(widen(right) @ widen(left))  # those of left · right but for zeros
    return values.real.sum(-1) / values.abs().sum(-1)


def symmetric_share(w_q: Float[Tensor, "d r"], w_k: Float[Tensor, "d r"]) -> Float[Tensor, ""]:
    """Squared share of the symmetric part of W_Q W_Kᵀ, 0…1; ½ for a random head. NaN for zero weights.

    ½ + tr((W_KᵀW_Q)²) / (2 tr(W_QᵀW_Q W_KᵀW_K)): no [d, d] matrix. Source: own reading of a title, style.
    Errors: ValueError for unequal shapes.
    """
    require_shape("w_k", w_k, *w_q.shape)
    q, k = widen(w_q), widen(w_k)
    mixed = k.mT @ q
    return 0.5 + (mixed * mixed.mT).sum() / (2 * ((q.mT @ q) * (k.mT @ k)).sum())


class Interference(NamedTuple):
    """Over pairs of different keys: mean squared cosine and mean |cosine|, 0…1."""

    square: Float[Tensor, ""]
    absolute: Float[Tensor, ""]


def key_interference(keys: Float[Tensor, "n d"]) -> Interference:
    """Mean squared and mean absolute cosine of different keys of a head and text; squared, 1/d by chance.

    Source: own reading of an abstract on association capacity, style. Errors: ValueError for fewer than two keys.
    """
    n = len(keys)
    require(n >= 2, f"{n} keys, at least two are needed")
    units = torch.nn.functional.normalize(widen(keys), dim=-1)
    cosines = (units @ units.T).fill_diagonal_(0.0)
    pairs = n * (n - 1)
    return Interference(cosines.square().sum() / pairs, cosines.abs().sum() / pairs)


def streamed_interference(outer: Float[Tensor, "d d"], n: int) -> Float[Tensor, ""]:
    """`key_interference(...).square` from Σ u uᵀ of n keys of length 1: (‖Σ u uᵀ‖_F² − n) / (n (n − 1)).

    Errors: ValueError for fewer than two keys.
    """
    require(n >= 2, f"{n} keys, at least two are needed")
    return (widen(outer).square().sum() - n) / (n * (n - 1))


def unselectable_keys(keys: Float[Tensor, "n d"]) -> Bool[Tensor, "n"]:
    """True for a key in the convex hull of the others: no query ranks it above all of them.

    A key that is the largest along its own direction from the mean, as it is or with the keys' covariance made that of
    a ball, is outside at once; the rest by a linear programme each. Below d + 2 keys none is inside but a copy of
    another. Source: arXiv 2305.02582, code.
    Errors: ValueError without keys.
    """
    require(len(keys) > 0, "keys holds no keys")
    points = widen(keys).double().cpu()
    centred = points - points.mean(0)
    clear = _largest_of_all(centred, centred) | _largest_of_all(
        centred, centred @ torch.linalg.pinv(centred.T @ centred)
    )
    return torch.tensor([not bool(clear[i]) and _inside(points, i) for i in range(len(points))], device=keys.device)


def _largest_of_all(points: Tensor, directions: Tensor) -> Tensor:
    """Whether each point lies farther along its own direction than all others."""
    scores = points @ directions.T
    return scores.diagonal() > scores.clone().fill_diagonal_(-torch.inf).amax(0)


def _inside(points: Tensor, i: int) -> bool:
    """Is point i a convex combination of the others? By feasibility."""
    from scipy.optimize import linprog  # here, since every analysis imports the metrics

    others = torch.cat([points[:i], points[i + 1 :]])
    if len(others) == 0:
        return False
    equations = torch.cat([others.T, torch.ones(1, len(others), dtype=points.dtype)])
    target = torch.cat([points[i], points.new_ones(1)])
    return bool(linprog([0.0] * len(others), A_eq=equations.numpy(), b_eq=target.numpy(), method="highs").status == 0)


def remove_mean_direction(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """LayerNorm's first half: the projection orthogonal to the vector of ones, x − mean.

    Scaled to length √d it is LayerNorm without gain and eps; RMSNorm does not project. Source: arXiv 2305.02582.
    """
    return widen(x) - widen(x).mean(-1, keepdim=True)


def cosine_to_ones(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Cosine of each vector to the vector of ones, −1…1: what LayerNorm's projection takes. NaN for a zero vector."""
    wide = widen(x)
    return wide.sum(-1) / (wide.norm(dim=-1) * wide.shape[-1] ** 0.5)
