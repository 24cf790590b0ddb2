"""Attention inside a vision tower's block: token 0 is the class token, the others are patches, all see all."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ._checks import require, widen


class BlockStatistics(NamedTuple):
    """[h] each, mean over patches where there are several. Shares 0…1; adjusted: may exceed 1; entropies ≥ 0, nats."""

    cls_to_cls: Float[Tensor, "h"]
    patch_to_self: Float[Tensor, "h"]
    patch_to_self_adjusted: Float[Tensor, "h"]
    cls_to_patch_mean: Float[Tensor, "h"]
    patch_to_cls_mean: Float[Tensor, "h"]
    cls_entropy: Float[Tensor, "h"]
    patch_entropy_mean: Float[Tensor, "h"]


def block_statistics(pattern: Float[Tensor, "h n n"], eps: float | int = 1e-6) -> BlockStatistics:
    """Where the class token and the patches of a block look.

    adjusted: divided by the row's mass on patches. Entropies in nats over patches, the row divided by its mass there +
    eps, eps inside the logarithm. Null: 1/n, ln(n − 1). SigLIP towers have no class token.
    Source: repository of arXiv 2506.10178, code. Errors: ValueError for other shapes or without patches.
    """
    require(pattern.ndim == 3 and pattern.shape[1] == pattern.shape[2] > 1, f"pattern has shape {tuple(pattern.shape)}")
    attention = widen(pattern)
    patches = attention[:, 1:, 1:]
    itself, mass = patches.diagonal(dim1=1, dim2=2), patches.sum(-1)
    return BlockStatistics(
        attention[:, 0, 0],
        itself.mean(-1),
        (itself / mass).mean(-1),
        attention[:, 0, 1:].mean(-1),
        attention[:, 1:, 0].mean(-1),
        _patch_entropy(attention[:, 0, 1:], eps),
        _patch_entropy(patches, eps).mean(-1),
    )


def _patch_entropy(rows: Tensor, eps: float | int) -> Tensor:
    p = rows / (rows.sum(-1, keepdim=True) + eps)
    return -torch.linalg.vecdot(p, (p + eps).log())
