"""How far two ways to the same number may differ: so many roundings of the dtype, and what depth makes of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Two ways through the wiring of one layer in float32, as a share of the tensor's largest value: 1.0e-5. Proofs of
# subjects in half precision are made in float32 too, and float64 has the same: Hugging Face's eager softmax, and most
# norms, are float32 in any model.
TOLERANCE = 84 * torch.finfo(torch.float32).eps
# Through all layers it is ten times as much, and grows with them as a random walk where they are more than DEPTH.
DEPTH = 32
# One block in half precision against float32 on the same input: so many roundings (eps of its dtype) of each row's
# length. Measured on SmolLM2 and scenes, layer by layer, in bfloat16 and float16: at most 2, and 4 in a single row.
BLOCK = 8


def through_limit(layers: int) -> float:
    """How far two ways in float32 through so many layers may end apart, as a share of the largest value."""
    return 10 * TOLERANCE * math.sqrt(max(1.0, layers / DEPTH))


def block_error(found: Tensor, expected: Tensor) -> float:
    """Difference of rows [n, d] as a share of each row's length, root mean square over rows; NaN where not finite.

    A mean, since a router that rounds to another expert moves single rows by far more than roundings.
    """
    found, expected = found.float().cpu(), expected.float().cpu()
    off = (found - expected).square().sum(-1) / expected.square().sum(-1).clamp(min=1e-30)
    return float(off.mean().sqrt())


def block_limit(dtype: torch.dtype) -> float:
    """What `block_error` of a right block may be."""
    return BLOCK * torch.finfo(dtype).eps


def rows_limit(dtype: torch.dtype, layers: int) -> float:
    """How far the rows of a run may lie from those of another batch size or machine, as a share of the largest value.

    Roundings of the layers add up like a random walk; ten times the check's tolerance where that is more.
    """
    return max(10 * TOLERANCE, 2 * torch.finfo(dtype).eps * math.sqrt(layers))
