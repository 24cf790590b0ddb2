"""Likeness of two sets of numbers: of distributions, of maps, of the states of the same examples."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._checks import require, require_pattern, require_shape, widen
from .modality import mean_over_queries
from .spread import row_entropy


def correlation(x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Pearson's r along the last axis, −1…1; NaN where one of the two is constant.

    Errors: ValueError for unequal shapes.
    """
    require_shape("y", y, *x.shape)
    a, b = (widen(z) - widen(z).mean(-1, keepdim=True) for z in (x, y))
    return torch.linalg.vecdot(a, b) / (a.norm(dim=-1) * b.norm(dim=-1))


def jensen_shannon(p: Float[Tensor, "*batch k"], r: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Jensen–Shannon divergence of distributions in nats, H((p + r)/2) − ½H(p) − ½H(r), 0…ln 2.

    Source: EMNLP Findings 2023.868, code. Errors: ValueError for unequal shapes.
    """
    require_shape("r", r, *p.shape)
    a, b = widen(p), widen(r)
    return (row_entropy((a + b) / 2) - (row_entropy(a) + row_entropy(b)) / 2).clamp_min(0.0)


def head_jensen_shannon(pattern: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b q"]) -> Float[Tensor, "b h h"]:
    """`jensen_shannon` between the rows of two heads of a layer, mean over the chosen rows: [b, h, h], symmetric.

    Two heads that both sink are alike by their sink alone: leave the first column out of a twin figure.
    Source: arXiv 2003.05997 (Routing Transformer), style. Errors: ValueError for unequal shapes.
    """
    b, h, _, _ = require_pattern(pattern)
    values = torch.zeros(b, h, h, dtype=widen(pattern).dtype, device=pattern.device)
    for i in range(h):
        rows = jensen_shannon(pattern[:, i : i + 1].expand_as(pattern[:, i:]), pattern[:, i:])
        values[:, i, i:] = values[:, i:, i] = mean_over_queries(rows, queries)
    return values


def map_cosine(a: Float[Tensor, "*batch q k"], b: Float[Tensor, "*batch q k"]) -> Float[Tensor, "*batch"]:
    """Cosine of two attention maps, each as one vector, 0…1. Unrelated head means reach .8: see `uniform_pattern`.

    Source: arXiv 2409.14595 and 2407.12866, style. Errors: ValueError for unequal shapes.
    """
    return cosine(a.flatten(-2), b.flatten(-2))


def row_cosine(
    a: Float[Tensor, "b h q k"], b: Float[Tensor, "b h q k"], queries: Bool[Tensor, "b q"]
) -> Float[Tensor, "b h"]:
    """Cosine of two maps row by row, mean over the chosen rows, 0…1. Source and null as in `map_cosine`.

    Errors: ValueError for unequal shapes.
    """
    return mean_over_queries(cosine(a, b), queries)


def cosine(x: Float[Tensor, "*batch d"], y: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Cosine along the last axis, −1…1; NaN where one of the two is zero. Errors: ValueError for unequal shapes."""
    require_shape("y", y, *x.shape)
    a, b = widen(x), widen(y)
    return torch.linalg.vecdot(a, b) / (a.norm(dim=-1) * b.norm(dim=-1))


def linear_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], *, unbiased: bool = False) -> Float[Tensor, ""]:
    """Linear centred kernel alignment of two sets of states of the same n examples; 0…1, unbiased also below 0.

    The plain one is inflated where examples are fewer than dimensions; unbiased: HSIC without the kernels' diagonals,
    n ≥ 4. NaN for constant states. Source: Kornblith et al. 2019, Song et al. 2012, from memory.
    Errors: ValueError for unequal n, too few examples.
    """
    require(len(x) == len(y), f"x has {len(x)} examples, y {len(y)}")
    require(len(x) >= (4 if unbiased else 2), f"{len(x)} examples are too few")
    kernels = [_kernel(states, unbiased) for states in (widen(x), widen(y))]
    dependence = _hsic_unbiased if unbiased else lambda a, b: (a * b).sum()
    within = [dependence(kernel, kernel) for kernel in kernels]
    return dependence(*kernels) / (within[0] * within[1]).sqrt()


def _kernel(states: Tensor, unbiased: bool) -> Tensor:
    centred = states - states.mean(0)
    kernel = centred @ centred.T
    return kernel.fill_diagonal_(0.0) if unbiased else kernel


def _hsic_unbiased(a: Tensor, b: Tensor) -> Tensor:
    n = len(a)
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a.sum(0) @ b.sum(0)) / (n - 2)
    return ((a * b).sum() + sums) / (n * (n - 3))
