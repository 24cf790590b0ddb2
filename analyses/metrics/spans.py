"""How far attention matters: first-order influence of single entries, elastic spans, spans that hang together."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import NAN, require, require_shape, widen


def masking_influence(
    pattern: Float[Tensor, "*batch q k"],
    v: Float[Tensor, "*batch k d"],
    grad_z: Float[Tensor, "*batch q d"],
) -> Float[Tensor, "*batch q k"]:
    """First-order change of the loss when an entry is masked and its row renormalised: A g·(z − v) / (1 − A).

    pattern: rows of each head, z = A v; v: [.., k, d] of its KV head; grad_z: g = ∂loss/∂z at the rows. Equal to
    −A(G − ΣAG)/(1 − A) with G = ∂loss/∂A = g·v, without a gradient of maps: give rows in blocks. Where A = 1 the entry
    is all there is: −A G. First order, so wrong where A is near 1. Source: arXiv 2406.14909 (MoA), code.
    Errors: ValueError for unequal shapes.
    """
    require_shape("v", v, *pattern.shape[:-2], pattern.shape[-1], v.shape[-1])
    require_shape("grad_z", grad_z, *pattern.shape[:-1], v.shape[-1])
    attention, values, gradient = widen(pattern), widen(v), widen(grad_z)
    of_entry = gradient @ values.mT
    of_row = (attention * of_entry).sum(-1, keepdim=True)
    rest = 1 - attention
    masked = attention * (of_row - of_entry) / rest.masked_fill(rest <= 0, 1.0)
    return torch.where(rest <= 0, -attention * of_entry, masked)


def sums_by_distance(maps: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """Σ |entry| at each distance q − k = 0…n − 1 below the diagonal, ≥ 0.

    Source: arXiv 2406.14909 (MoA), code. Errors: ValueError for maps that are not square.
    """
    n = maps.shape[-1]
    require(maps.shape[-2] == n, f"maps have shape {tuple(maps.shape)}, expected [..., n, n]")
    size = widen(maps).abs()
    return torch.stack([size.diagonal(-distance, -2, -1).sum(-1) for distance in range(n)], -1)


def elastic_span(length: int, alpha: int, beta: float | int) -> int:
    """Keys that a head keeps at query position length − 1: α + ⌊β (length − α)⌋, 1…length, the nearest ones.

    Source: arXiv 2406.14909 (MoA), code. Errors: ValueError for a length below 1, β outside 0…1, α below 0.
    """
    require(length >= 1, f"length = {length} is below 1")
    require(alpha >= 0 and 0 <= beta <= 1, f"alpha = {alpha}, beta = {beta}: expected α ≥ 0 and β in 0…1")
    return min(length, max(1, alpha + math.floor(beta * (length - alpha))))


def elastic_ranges(keys: int, alpha: int, beta: float | int) -> Int[Tensor, "q 2"]:
    """First kept key and the end behind the last, for each query of a text of `keys` tokens; as `elastic_span`."""
    return torch.tensor([[n - elastic_span(n, alpha, beta), n] for n in range(1, keys + 1)])


def triangle_scores(maps: Float[Tensor, "*batch n n"], baseline: float | int) -> Float[Tensor, "*batch n n"]:
    """Score of each span x…y: Σ over x ≤ k ≤ q ≤ y of A[q, k] − baseline; [.., x, y], NaN for y < x.

    All spans by two running sums. The first token attracts every span: drop it. Source: arXiv 2412.04757 (Ltri-LLM),
    style; there A is summed over heads. Errors: ValueError for maps that are not square.
    """
    n = maps.shape[-1]
    require(maps.shape[-2] == n, f"maps have shape {tuple(maps.shape)}, expected [..., n, n]")
    above = (widen(maps) - baseline).tril()
    rows = above.flip(-1).cumsum(-1).flip(-1).tril()  # [.., q, x]: Σ over x ≤ k ≤ q
    scores = rows.cumsum(-2).mT
    return scores.masked_fill(torch.ones(n, n, dtype=torch.bool, device=maps.device).tril(-1), NAN)
