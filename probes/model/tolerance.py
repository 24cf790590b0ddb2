"""How far two ways to the same number may differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Two ways through the same wiring in float32, as a share of the tensor's largest value; proofs of subjects in half
# precision are made in float32 too. float64 has the same: Hugging Face's eager softmax is float32 in any model.
TOLERANCE = 1e-5
# One block in half precision against float32 on the same input: so many roundings (eps of its dtype) of each row's
# length. Measured on SmolLM2 and scenes, layer by layer, in bfloat16 and float16: at most 2, and 4 in a single row.
BLOCK = 8


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
    """How far the rows of a run may lie from those of another machine, as a share of the largest value.

    Roundings of the layers add up like a random walk; ten times the check's tolerance where that is more.
    """
    return max(10 * TOLERANCE, 2 * torch.finfo(dtype).eps * math.sqrt(layers))
