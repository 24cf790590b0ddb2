"""The shape of attention maps: concentration, diversity of heads, local focus, and what trivial patterns explain."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import NAN, require, require_mask, require_pattern, widen
from .visibility import causal_visibility, first_real


def _visible_part(pattern: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The map with zeros where a real query sees nothing (padding may hold NaN), and what is visible, [b, q, k]."""
    b, _, q, k = require_pattern(pattern)
    require_mask("mask", mask, b, k)
    require(q == k, f"pattern has {q} queries and {k} keys, expected whole maps")
    visible = causal_visibility(mask)
    return widen(pattern).masked_fill(~visible[:, None], 0.0), visible


def concentration(pattern: Float[Tensor, "b h p p"], mask: Bool[Tensor, "b p"]) -> Float[Tensor, "b h"]:
    """Frobenius norm ‖A‖ of each head's causal map, √H_n (uniform) … √n: compare equal lengths n only.

    Source: arXiv 2510.11602, section 4.4. Errors: ValueError for unequal shapes.
    """
    return _visible_part(pattern, mask)[0].flatten(2).norm(dim=-1)


def head_diversity(
    pattern: Float[Tensor, "b h p p"], mask: Bool[Tensor, "b p"], *, correction: int = 0
) -> Float[Tensor, "b"]:
    """Mean over a causal map's visible entries of the standard deviation across heads; 0 for equal heads.

    correction: 0 divides by the heads, 1 by one less; the paper does not say which. NaN without real tokens.
    Source: arXiv 2510.11602, section 4.4. Errors: ValueError for unequal shapes, not more heads than `correction`.
    """
    attention, visible = _visible_part(pattern, mask)
    require(attention.shape[1] > correction, f"{attention.shape[1]} heads with correction {correction}")
    return attention.std(1, correction=correction).sum((1, 2)) / visible.sum((1, 2))


def first_token_attention(pattern: Float[Tensor, "b h p p"], mask: Bool[Tensor, "b p"]) -> Float[Tensor, "b h"]:
    """Mean attention of all real rows on the first real token, 0…1: the indicator "sink"; NaN without real tokens.

    Source: arXiv 2510.11602, section 4.4. Errors: ValueError for unequal shapes.
    """
    attention, _ = _visible_part(pattern, mask)
    on_first = (attention * first_real(mask)[:, None, None]).sum((2, 3))
    return on_first / mask.sum(1, keepdim=True)


def local_focus(pattern: Float[Tensor, "b h p p"], mask: Bool[Tensor, "b p"], distance: int) -> Float[Tensor, "b h"]:
    """Mean attention at a distance, Σ_q A[q, q − d] / (n − d), 0…1; NaN where a text has no more than d tokens.

    Source: arXiv 2510.11602, section 4.4 (d = 0…3). Errors: ValueError for unequal shapes or a distance below 0.
    """
    require(distance >= 0, f"distance = {distance} is below 0")
    attention, visible = _visible_part(pattern, mask)
    count = visible.diagonal(-distance, 1, 2).sum(-1)[:, None]
    total = attention.diagonal(-distance, 2, 3).sum(-1)
    return (total / count).masked_fill(count == 0, NAN)


class TrivialFit(NamedTuple):
    """What trivial patterns explain of each head. r2: [h], −∞…1; coefficients: [h, 3] of self, previous, first."""

    r2: Float[Tensor, "h"]
    coefficients: Float[Tensor, "h 3"]
    intercept: Float[Tensor, "h"]


def fit_trivial(pattern: Float[Tensor, "b h p p"], mask: Bool[Tensor, "b p"]) -> TrivialFit:
    """Regression with intercept of a head's visible entries, all texts pooled, on three indicators.

    They are: the key is the query, the previous token, the first token. Only four sums of a map are read (its squares
    among them), so that texts add up. Uniform maps have r2 above 0 too: compare with `uniform_pattern` at equal length.
    r2 is NaN for a constant head. Source: EMNLP Findings 2023.868, code (how it marks words is not released).
    Errors: ValueError for unequal shapes.
    """
    attention, visible = _visible_part(pattern, mask)
    indicators = _trivial_indicators(visible, mask)
    gram = torch.einsum("bqkf,bqkg->fg", indicators, indicators)
    moments = torch.einsum("bhqk,bqkf->hf", attention.double(), indicators)
    squares = attention.double().square().sum((0, 2, 3))
    weights = (torch.linalg.pinv(gram) @ moments.T).T
    r2 = trivial_r2(gram.expand(len(moments), 4, 4), moments, squares)
    return TrivialFit(*(x.to(attention.dtype) for x in (r2, weights[:, :3], weights[:, 3])))


def trivial_r2(
    gram: Float[Tensor, "*batch 4 4"], moments: Float[Tensor, "*batch 4"], squares: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """r2 of `fit_trivial` from sums over a head's visible entries, −∞…1; NaN for a constant head.

    gram: how many entries two of self, previous, first and all have in common; moments: Σ A over the entries of each;
    squares: Σ A². All of them float64, so that texts can be added up. Source: as `fit_trivial`.
    """
    weights = (torch.linalg.pinv(gram) @ moments[..., None])[..., 0]
    count = gram[..., 3, 3]
    variation = squares - moments[..., 3].square() / count
    unexplained = squares - (weights * moments).sum(-1)
    return (1 - unexplained / variation).masked_fill(variation <= 1e-12 * squares, NAN)


def trivial_residual(
    pattern: Float[Tensor, "b h p p"], mask: Bool[Tensor, "b p"], fit: TrivialFit
) -> Float[Tensor, "b h p p"]:
    """What trivial patterns leave of a map: A − fit at visible entries, 0 elsewhere.

    Errors: ValueError for unequal shapes.
    """
    attention, visible = _visible_part(pattern, mask)
    weights = torch.cat([fit.coefficients, fit.intercept[:, None]], -1).to(attention.dtype)
    return attention - torch.einsum("bqkf,hf->bhqk", _trivial_indicators(visible, mask).to(attention.dtype), weights)


def _trivial_indicators(visible: Tensor, mask: Tensor) -> Tensor:
    """Self, previous, first and the constant, [b, q, k, 4] in float64."""
    n = visible.shape[-1]
    itself = torch.eye(n, dtype=torch.bool, device=visible.device)
    previous = torch.ones_like(itself).tril(-1) & ~torch.ones_like(itself).tril(-2)
    first = first_real(mask)[:, None].expand_as(visible)
    return torch.stack([visible & itself, visible & previous, visible & first, visible], -1).double()
