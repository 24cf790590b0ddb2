"""Periods in what is said of the numbers 0 … p − 1: Fourier's basis without its constant, whole components."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import require, require_inside, widen


def period_components(p: int) -> Int[Tensor, "rows"]:
    """The component 1 … p // 2 that each row of `period_basis` belongs to, [p − 1]; component k has period p / k."""
    return torch.arange(p - 1) // 2 + 1


def period_basis(p: int) -> Float[Tensor, "rows p"]:
    """Orthonormal rows without the constant, float64: cosine and sine of each component; of even p the last row, period
    2, stands alone.

    The periods of a discrete Fourier transform, p / k; `number_basis` has the paper's, which is not orthogonal.
    Errors: ValueError for p < 3.
    """
    require(p >= 3, f"p = {p} is below 3")
    angle = 2 * torch.pi * torch.arange(p, dtype=torch.float64) / p
    waves = [wave for k in range(1, p // 2 + 1) for wave in ((k * angle).cos(), (k * angle).sin())][: p - 1]
    return torch.nn.functional.normalize(torch.stack(waves), dim=-1)


def period_power(logits: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch component"]:
    """The squares of each whole component, ≥ 0: together Σ (logit − mean)². Component k has period p / k.

    With the numbers in another order a component has, in the mean over orders, as many of p − 1 parts as it has rows.
    """
    p = logits.shape[-1]
    squares = (widen(logits) @ period_basis(p).T.to(widen(logits))).square()
    power = squares.new_zeros(*squares.shape[:-1], p // 2)
    return power.index_add_(-1, period_components(p).to(squares.device) - 1, squares)


def period_directions(unembedding: Float[Tensor, "p d"], components: Sequence[int]) -> Float[Tensor, "d rank"]:
    """Orthonormal directions of a module's output that its numbers' logits have these components from, float64.

    unembedding: the rows of the numbers. Without its part along them (x − Q Qᵀ x, the nearest such vector) the logits
    of the numbers have none of the components; their mean is not asked about. Source: arXiv 2406.03445, Definition A.6,
    with whole components. Errors: ValueError for no component, or one outside 1 … p // 2.
    """
    p = len(unembedding)
    require(len(components) > 0, "no component")
    require_inside(torch.tensor([*components]) - 1, p // 2)
    rows = period_basis(p)[torch.isin(period_components(p), torch.tensor([*components]))] @ unembedding.double().cpu()
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[sizes > 1e-10 * sizes[0].clamp_min(1e-300)].T.to(unembedding.device)
