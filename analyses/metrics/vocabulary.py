"""Groups of the vocabulary: numbers in Fourier's basis, shares of languages among decoded tokens."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import require, widen


def number_basis(p: int) -> Float[Tensor, "p p"]:
    """Fourier's basis over the numbers 0…p − 1, float64: constant, then sine and cosine of component 1, 2, …

    Component k has period (p − 1)/k, so that the basis is not quite orthogonal, and for odd p its last sine is 0.
    Source: arXiv 2406.03445, Definition A.3, Remark A.7. Errors: ValueError for p < 3.
    """
    require(p >= 3, f"p = {p} is below 3")
    numbers = torch.arange(p, dtype=torch.float64)
    rows = [torch.full((p,), (p - 1) ** -0.5, dtype=torch.float64)]
    for k in range(1, p // 2 + 1):
        angle = 2 * torch.pi * k * numbers / (p - 1)
        rows += [(2 / (p - 1)) ** 0.5 * angle.sin(), (2 / (p - 1)) ** 0.5 * angle.cos()]
    return torch.stack(rows[:p])


def number_spectrum(logits: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    """Coefficients of the numbers' logits in `number_basis`: of a module's output by the unembedding, no norm.

    Source: arXiv 2406.03445, Definitions A.3 and A.4.
    """
    return widen(logits) @ number_basis(logits.shape[-1]).to(widen(logits)).T


def component_magnitudes(coefficients: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch component"]:
    """√(sine² + cosine²) of each component of `number_spectrum`, ≥ 0; component 0 is the constant's absolute value.

    Component k has period (p − 1)/k. Source: arXiv 2406.03445.
    """
    squares = widen(coefficients).square()
    rest = torch.nn.functional.pad(squares[..., 1:], (0, (squares.shape[-1] - 1) % 2))
    return torch.cat([squares[..., :1], rest.unflatten(-1, (-1, 2)).sum(-1)], -1).sqrt()


def filter_components(
    output: Float[Tensor, "*batch d"],
    unembedding: Float[Tensor, "p d"],
    cut: int,
    keep: Literal["low", "high"],
) -> Float[Tensor, "*batch d"]:
    """The vector nearest to a module's output whose number logits have no component ≥ cut (low) or 1…cut − 1 (high).

    unembedding: the rows of the numbers. A projection on a null space; components are whole, the constant stays.
    Source: arXiv 2406.03445, Definitions A.5 and A.6. Errors: ValueError for unequal widths, cut < 1, another word.
    """
    require(keep in ("low", "high"), f'keep = {keep!r}: use "low" or "high"')
    require(cut >= 1, f"cut = {cut} is below 1")
    require(
        output.shape[-1] == unembedding.shape[1], f"output has width {output.shape[-1]}, not {unembedding.shape[1]}"
    )
    p = len(unembedding)
    component = (torch.arange(p) + 1) // 2
    removed = component >= cut if keep == "low" else (component >= 1) & (component < cut)
    rows = number_basis(p)[removed] @ unembedding.double().cpu()
    projection = torch.linalg.pinv(rows, rtol=1e-10) @ rows
    return widen(output) - widen(output) @ projection.to(widen(output)).T


def language_counts(decoded: Sequence[tuple[str, bool]], candidates: Sequence[str]) -> Int[Tensor, "language"]:
    """How many decoded tokens of one text and layer are of each candidate language, reliably: (language, reliable).

    Source: arXiv 2402.18815 (PLND), code.
    """
    reliable = [language for language, sure in decoded if sure]
    return torch.tensor([reliable.count(language) for language in candidates])


def pooled_shares(counts: Int[Tensor, "text *layer language"]) -> Float[Tensor, "*layer language"]:
    """Share of each language among the counted tokens of all texts, 0…1; NaN where nothing was counted."""
    total = counts.sum(0)
    return total.double() / total.sum(-1, keepdim=True)


def mean_shares(counts: Int[Tensor, "text *layer language"]) -> Float[Tensor, "*layer language"]:
    """Mean over texts of a text's shares, texts without a counted token entering as 0, as released: sums stay below 1.

    Report `pooled_shares`. Source: arXiv 2402.18815 (PLND), code (its layer 0 is overwritten by constants, not here).
    """
    return (counts.double() / counts.sum(-1, keepdim=True).clamp_min(1)).mean(0)
