"""Keys that an indexer of the model chose for each query, as masks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def by_number(chosen: Int[Tensor, "b q n"], keys: int) -> Bool[Tensor, "b 1 q k"]:
    """Keys given by their numbers (DeepSeek V3.2)."""
    mask = torch.zeros(*chosen.shape[:2], keys, dtype=torch.bool, device=chosen.device)
    return mask.scatter(-1, chosen.long(), True)[:, None]


def by_block(chosen: Int[Tensor, "b g q n"], size: int, heads: int, keys: int) -> Bool[Tensor, "b h q k"]:
    """Keys given by the numbers of their blocks, for each group of heads; -1 is none (MiniMax M3)."""
    count = -(-keys // size)
    mask = torch.zeros(*chosen.shape[:3], count + 1, dtype=torch.bool, device=chosen.device)
    mask = mask.scatter(-1, chosen.long().masked_fill(chosen < 0, count), True)
    return mask[..., :count].repeat_interleave(size, -1)[..., :keys].repeat_interleave(heads // chosen.shape[1], 1)
