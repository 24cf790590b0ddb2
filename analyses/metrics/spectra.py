"""Singular values and eigenvalues of maps and weights: ranks, gaps, signal above noise."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import require, require_mask, widen
from .spread import row_entropy


class Ranks(NamedTuple):
    """stable: ‖W‖_F² / ‖W‖₂²; effective: exp of the entropy of σ / Σσ; participation: (Σσ²)² / Σσ⁴. 1…min(n, m)."""

    stable: Float[Tensor, "*batch"]
    effective: Float[Tensor, "*batch"]
    participation: Float[Tensor, "*batch"]


def spectrum_ranks(values: Float[Tensor, "*batch k"]) -> Ranks:
    """`stable_rank`, `effective_rank`, `participation_ratio` of singular values, the largest first; NaN for zeros."""
    values = widen(values)
    squares = values.square()
    effective = row_entropy(values / values.sum(-1, keepdim=True)).exp()
    return Ranks(squares.sum(-1) / squares[..., 0], effective, squares.sum(-1).square() / squares.square().sum(-1))


def stable_rank(matrix: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch"]:
    """‖W‖_F² / ‖W‖₂², 1…min(n, m); NaN for a zero matrix. Source: standard (arXiv 2310.00535 plots it, JoMA)."""
    return spectrum_ranks(torch.linalg.svdvals(widen(matrix))).stable


def effective_rank(matrix: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch"]:
    """exp of the entropy of the singular values' shares σ / Σσ, 1…min(n, m); NaN for a zero matrix. Standard."""
    return spectrum_ranks(torch.linalg.svdvals(widen(matrix))).effective


def participation_ratio(matrix: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch"]:
    """(Σσ²)² / Σσ⁴ of the singular values, 1…min(n, m); NaN for a zero matrix. Standard."""
    return spectrum_ranks(torch.linalg.svdvals(widen(matrix))).participation


def without_diagonal(maps: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The maps with zeros on the diagonal."""
    require(maps.shape[-1] == maps.shape[-2], f"maps have shape {tuple(maps.shape)}, expected [..., n, n]")
    return maps - torch.diag_embed(maps.diagonal(dim1=-2, dim2=-1))


def attention_rank(maps: Float[Tensor, "*batch n n"]) -> Int[Tensor, "*batch"]:
    """Rank of each head's map of real tokens with the diagonal set to 0, in float32; its mean over heads is ARank.

    A singular value counts above the largest × n × eps. It measures the mask: uniform attention has n − 1, attention on
    the first token alone 1; `effective_rank(without_diagonal(maps))` says more. Source: arXiv 2410.13859, code.
    Errors: ValueError for maps that are not square.
    """
    values = torch.linalg.svdvals(without_diagonal(maps).float())
    tolerance = values[..., :1] * maps.shape[-1] * torch.finfo(torch.float32).eps
    return (values > tolerance).sum(-1)


def spectral_gap(maps: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """1 − |λ₂| of attention maps of real tokens, 0…1; 1 for a single token.

    A causal map is triangular: its eigenvalues are its diagonal, and the gap says how strong the strongest
    self-attention behind the first row is. Source: arXiv 2311.13541, lln-style. Errors: ValueError for other shapes.
    """
    maps = widen(maps)
    require(maps.shape[-1] == maps.shape[-2], f"maps have shape {tuple(maps.shape)}, expected [..., n, n]")
    if maps.shape[-1] == 1:
        return torch.ones_like(maps[..., 0, 0])
    if not bool(maps.triu(1).any()):
        return 1 - maps.diagonal(dim1=-2, dim2=-1)[..., 1:].amax(-1)
    return 1 - torch.linalg.eigvals(maps).abs().sort(dim=-1, descending=True).values[..., 1]


def log_attention_variance(maps: Float[Tensor, "h q k"], visible: Bool[Tensor, "q k"]) -> Float[Tensor, "h"]:
    """Variance (divisor n) of ln A over the visible entries of each head, ≥ 0; infinite where one of them is 0.

    Leave the first row of a causal map out: its one entry is 1. Source: arXiv 2311.13541, lln-style.
    Errors: ValueError for unequal shapes or nothing visible.
    """
    require_mask("visible", visible, *maps.shape[1:])
    require(bool(visible.any()), "visible holds no entry")
    return widen(maps)[:, visible].log().var(-1, correction=0)


class LogMoments(NamedTuple):
    """[h] each, of ln A: variance ≥ 0, skewness, excess kurtosis; a normal law has 0 in the last two."""

    variance: Float[Tensor, "h"]
    skewness: Float[Tensor, "h"]
    kurtosis: Float[Tensor, "h"]


def log_attention_moments(maps: Float[Tensor, "h q k"], visible: Bool[Tensor, "q k"]) -> LogMoments:
    """Is ln A normal within rows? Mean variance of rows (divisor n), skewness and excess kurtosis of all entries after
    each row's mean and deviation were taken out.

    Within a row ln A is the score up to a constant. Rows of fewer than three visible entries and entries of 0 (what
    float32 cannot tell) are left out; NaN without any. Source: arXiv 2311.13541, lln-style.
    Errors: ValueError for unequal shapes.
    """
    require_mask("visible", visible, *maps.shape[1:])
    there = visible & (maps > 0)
    there &= there.sum(-1, keepdim=True) >= 3
    logs = widen(maps).clamp_min(torch.finfo(torch.float32).tiny).log().masked_fill(~there, 0.0)
    count = there.sum(-1, keepdim=True).clamp_min(1)
    apart = (logs - logs.sum(-1, keepdim=True) / count).masked_fill(~there, 0.0)
    variance = apart.square().sum(-1, keepdim=True) / count
    z = apart / variance.sqrt().clamp_min(1e-12)
    rows, entries = there.any(-1).sum(-1), there.sum((1, 2))
    return LogMoments(variance[..., 0].sum(-1) / rows, (z**3).sum((1, 2)) / entries, (z**4).sum((1, 2)) / entries - 3)


def spectrum_snr(weight: Float[Tensor, "n m"], values: Float[Tensor, "k"] | None = None) -> Float[Tensor, ""]:
    """Σ of the singular values above `noise_threshold` / Σ of the others (1 without any) / the largest; ≥ 0.

    values: its singular values, largest first, where they are known. It scales as 1 / ‖W‖ and depends on the shape:
    compare with the same of the matrix with its entries permuted.
    Source: Spectrum (arXiv 2406.06623), code. Errors: ValueError for a zero matrix.
    """
    values = torch.linalg.svdvals(widen(weight)) if values is None else widen(values)
    require(bool(values[0] > 0), "weight is a zero matrix")
    signal = values > noise_threshold(weight, values)
    noise = values[~signal].sum() if not bool(signal.all()) else values.new_tensor(1.0)
    return values[signal].sum() / noise / values[0]


def noise_threshold(weight: Float[Tensor, "n m"], values: Float[Tensor, "k"] | None = None) -> Float[Tensor, ""]:
    """σ (1 + √(min/max dimension)), σ = interquartile range of the singular values / 1.349.

    Not the edge of the noise: see `noise_edge`. values: as there. Source: Spectrum (arXiv 2406.06623), code.
    """
    values = torch.linalg.svdvals(widen(weight)) if values is None else widen(values)
    quartiles = values.quantile(values.new_tensor([0.25, 0.75]))
    return (quartiles[1] - quartiles[0]) / 1.349 * (1 + math.sqrt(min(weight.shape) / max(weight.shape)))


def noise_edge(weight: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """Marchenko–Pastur edge std(entries) · (√n + √m): few singular values of pure noise lie above it. Standard."""
    n, m = weight.shape
    return widen(weight).std() * (math.sqrt(n) + math.sqrt(m))
