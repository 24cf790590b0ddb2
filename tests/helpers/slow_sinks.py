"""The slow way of what metrics do in place: whole maps, copies, one formula after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def move_mass(pattern: Tensor, givers: Tensor, takers: Tensor, fraction: float) -> Tensor:
    """A fraction of the givers' attention moved to the takers, row by row, in proportion to theirs."""
    freed = fraction * pattern.masked_fill(~givers, 0.0).sum(-1, keepdim=True)
    taken = pattern.masked_fill(~takers, 0.0)
    mass = taken.sum(-1, keepdim=True)
    moved = torch.where(givers, (1 - fraction) * pattern, pattern + freed * (taken / mass))
    return torch.where(mass > 0, moved, pattern)


def redistributed(
    pattern: Tensor, *, image: Tensor, sinks: Tensor, p: float, heads: Tensor, takers: Tensor | None = None
) -> Tensor:
    """VAR on whole maps. takers: columns, by default those of the image; sinks among them take nothing."""
    takers = (image if takers is None else takers) & ~sinks
    moved = move_mass(pattern, sinks[:, None, None], takers[:, None, None], p)
    return torch.where(heads[..., None], moved, pattern)


def calibrated(pattern: Tensor, sinks: Tensor, beta: float) -> Tensor:
    """ACT on whole maps."""
    return move_mass(pattern, sinks[:, :, None], ~sinks[:, :, None], 1 - beta)


def centric(pattern: Tensor, *, image: Tensor, sinks: Tensor, rho: float, mass: float) -> Tensor:
    """VAR's rows by the two sums, whether or not a sink lies in the image."""
    visual = pattern.masked_fill(~image[:, None, None], 0.0).sum(-1)
    nonsink = pattern.masked_fill(~(image & ~sinks)[:, None, None], 0.0).sum(-1)
    return (visual >= mass) & (nonsink / visual >= rho)
