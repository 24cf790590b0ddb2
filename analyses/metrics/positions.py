"""Rotary positions: what a base does to scores by distance, which frequencies heads use, answers over several bases."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import require, require_shape, widen


def rope_waveform(
    distances: Int[Tensor, "*batch"] | Float[Tensor, "*batch"], base: float | int, head_dim: int
) -> Float[Tensor, "*batch"]:
    """Score before the softmax of an all-ones query and key at a distance: (2/√d) Σ_j cos(m · base^(−2j/d)), ≤ √d.

    It is the same for any weights: nothing about a model until it is compared with scores. float64.
    Source: arXiv 2312.04455 (Attention Buckets), code. Errors: ValueError for an odd head_dim, a base not above 0.
    """
    require(head_dim > 0 and head_dim % 2 == 0, f"head_dim = {head_dim} is not even")
    require(base > 0, f"base = {base} is not positive")
    frequencies = float(base) ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = distances.double()[..., None] * frequencies.to(distances.device)
    return 2 / math.sqrt(head_dim) * angles.cos().sum(-1)


class MixedBases(NamedTuple):
    """weights: [base], sum 1. logits: the weighted mean of the bases' logits [vocab]."""

    weights: Float[Tensor, "*batch base"]
    logits: Float[Tensor, "*batch vocab"]


def mix_bases(logits: Float[Tensor, "*batch base vocab"]) -> MixedBases:
    """One answer from a forward per rotary base: weights are the softmax over bases of each one's largest logit.

    The mean is of logits, not of probabilities. Source: arXiv 2312.04455 (Attention Buckets), code.
    """
    wide = widen(logits)
    weights = wide.amax(-1).softmax(-1)
    return MixedBases(weights, (weights[..., None] * wide).sum(-2))


def frequency_use(q: Float[Tensor, "p h d"], k: Float[Tensor, "p group d"]) -> Float[Tensor, "group pair"]:
    """Use of each rotary pair (i, i + d/2) by a key head: mean ‖q_i‖ · mean ‖k_i‖ over positions, Σ over query heads.

    Before and after the rotation alike; query head h belongs to key head h // (h / groups). ≥ 0, units of q · k.
    Source: arXiv 2502.14837 (MHA2MLA), code. Errors: ValueError for an odd d, heads that the groups do not divide.
    """
    d = _fitting(q, k)
    queries, keys = (widen(x).unflatten(-1, (2, d // 2)).norm(dim=-2).mean(0) for x in (q, k))
    return queries.unflatten(0, (k.shape[1], -1)).sum(1) * keys


def score_by_distance(
    q: Float[Tensor, "p h d"],
    k: Float[Tensor, "p group d"],
    frequencies: Float[Tensor, "pair"],
    distances: Int[Tensor, "n"],
) -> Float[Tensor, "h n"]:
    """What position alone does to scores: the mean query against the mean key, so many positions before it.

    Re Σ_j q_j · conj(k_j) · e^{i m θ_j} / √d with rotary pairs (i, i + d/2) as complex numbers, before the rotation; θ:
    `frequencies`, radians a position. Of an all-ones query and key it is `rope_waveform`. Units of scores before the
    softmax (÷ √d). Query head h belongs to key head h // (h / groups).
    Source: the waveform is arXiv 2312.04455's (Attention Buckets); that of a head's own mean query and key is this
    project's. Errors: ValueError for an odd d, another number of frequencies than pairs, heads that groups do not
    divide.
    """
    d = _fitting(q, k)
    require_shape("frequencies", frequencies, d // 2)
    query, key = (torch.complex(*widen(x).mean(0).unflatten(-1, (2, d // 2)).unbind(-2)) for x in (q, k))
    both = query * key.conj().repeat_interleave(q.shape[1] // k.shape[1], 0)
    angles = distances.to(both.real)[:, None] * frequencies.to(both.real)
    return (both[:, None] * torch.polar(torch.ones_like(angles), angles)).real.sum(-1) / math.sqrt(d)


def _fitting(q: Float[Tensor, "p h d"], k: Float[Tensor, "p group d"]) -> int:
    """d, of queries and keys whose channels are pairs, and whose heads groups share."""
    positions, heads, d = q.shape
    require_shape("k", k, positions, k.shape[1], d)
    require(d % 2 == 0 and heads % k.shape[1] == 0, f"q {tuple(q.shape)} does not fit k {tuple(k.shape)}")
    return d


def ranks(scores: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """Rank of each entry along the last axis, 0 for the largest; ties in order."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
