"""Random columns instead of chosen ones: the control of repairs that move attention away from sinks."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor


def random_columns(
    sinks: Bool[Tensor, "*batch k"], eligible: Bool[Tensor, "*batch k"], seed: int
) -> Bool[Tensor, "*batch k"]:
    """As many of the eligible columns as there are sinks, or all where there are fewer.

    The order is drawn once over places counted from the first eligible one, so that neither the batch nor the padding
    changes it.
    """
    place = (eligible.cumsum(-1) - 1).clamp(min=0)
    drawn = torch.from_numpy(np.random.default_rng(seed).random(sinks.shape[-1])).to(sinks.device)
    order = drawn[place].masked_fill(~eligible, torch.inf)
    rank = order.argsort(dim=-1, stable=True).argsort(dim=-1)
    return eligible & (rank < sinks.sum(-1, keepdim=True))
