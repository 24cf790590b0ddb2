"""Ragged attention patterns, padded on either side, and comparisons of their real parts."""

from __future__ import annotations

import math

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

LENGTHS = [12, 7, 3]

SIZE = 12


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ragged(side: str, seed: int = 0, heads: int = 3, pad: float = math.nan) -> tuple[Tensor, Tensor]:
    """Causal patterns of examples with LENGTHS tokens, padded on one side; `pad` in the rows of padding."""
    pattern = torch.zeros(len(LENGTHS), heads, SIZE, SIZE)
    mask = torch.zeros(len(LENGTHS), SIZE, dtype=torch.bool)
    rng = generator(seed)
    for i, n in enumerate(LENGTHS):
        scores = 2 * torch.randn(heads, n, n, generator=rng)
        real = slice(SIZE - n, SIZE) if side == "left" else slice(0, n)
        causal = torch.ones(n, n, dtype=torch.bool).tril()
        pattern[i, :, real, real] = scores.masked_fill(~causal, -torch.inf).softmax(-1)
        mask[i, real] = True
        pattern[i, :, ~mask[i]] = pad
    return pattern, mask


def real_part(x: Tensor, mask: Tensor, *dims: int) -> list[Tensor]:
    """Each example's values at real positions, so that padding sides can be compared."""
    parts = []
    for row, keep in zip(x, mask, strict=True):
        for dim in dims:
            row = row.index_select(dim - 1, keep.nonzero()[:, 0])
        parts.append(row)
    return parts


def assert_lists_close(a: list[Tensor], b: list[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, equal_nan=True)


def chosen_columns(mask: Tensor, *offsets: int) -> Tensor:
    """Columns by their distance from the first real token."""
    place = mask.cumsum(1) - 1
    return mask & sum((place == offset for offset in offsets), torch.zeros_like(mask))


BAD_SHAPE = (ValueError, TypeError)

quick = settings(max_examples=20, deadline=None)

seeds = st.integers(0, 10_000)
