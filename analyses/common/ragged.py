"""Tensors of examples that differ in size, as one: NaN behind the end of the shorter ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def padded(parts: Sequence[Tensor], least: int = 0) -> Tensor:
    """[b, …] of tensors with as many axes each, NaN where one is shorter. least: of the last axis."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    if shape:
        shape[-1] = max(shape[-1], least)
    whole = parts[0].new_full((len(parts), *shape), torch.nan)
    for row, part in enumerate(parts):
        whole[(row, *map(slice, part.shape))] = part
    return whole


def stacked(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """[b, …] of every name that an example has, float32; NaN where another lacks it, or is shorter."""
    whole = {}
    for name in dict.fromkeys(name for one in found for name in one):
        axes = next(one[name].ndim for one in found if name in one)
        nothing = torch.full([0] * axes, torch.nan)
        whole[name] = padded([one[name].float() if name in one else nothing for one in found])
    return whole
