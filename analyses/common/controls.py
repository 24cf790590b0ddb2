"""Controls drawn at random: other heads of the same layers, other positions of the same example.

One null: as many as were chosen, without replacement, never what was chosen itself. A draw belongs to a key, the
example's id and the number of the draw; where one draw has to serve a whole batch, its number alone. So neither the
batch nor its padding nor the order of the examples changes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

DRAWS = 20
HEADS = "random heads of the same layers"
Head = tuple[int, int]


def random_positions(
    chosen: Bool[Tensor, "b *rest p"], allowed: Bool[Tensor, "b *rest p"], keys: Sequence[str]
) -> Bool[Tensor, "b *rest p"]:
    """As many allowed positions as are chosen, none of them a chosen one; all that there are where there are fewer.

    keys: one for each example, "<example id> <draw>"; rows of `rest` (heads) are drawn independently. Places are
    counted among an example's allowed ones, so padding does not matter. Errors: ValueError for another number of keys.
    """
    if len(keys) != len(chosen):
        raise ValueError(f"{len(keys)} keys for {len(chosen)} examples: one for each")
    free = allowed & ~chosen
    place = (free.cumsum(-1) - 1).clamp(min=0)
    drawn = torch.stack([_numbers(key, chosen.shape[1:]) for key in keys]) if keys else torch.zeros(chosen.shape)
    order = drawn.to(chosen.device).gather(-1, place).masked_fill(~free, torch.inf)
    rank = order.argsort(dim=-1, stable=True).argsort(dim=-1)
    return free & (rank < chosen.sum(-1, keepdim=True))


def _numbers(key: str, shape: Sequence[int]) -> Tensor:
    """[*rest, p] in 0…1; the first places have the same numbers however many follow."""
    *rest, length = shape
    drawn = np.random.default_rng(crc32(key.encode())).random((length, *rest))
    return torch.from_numpy(np.moveaxis(drawn, 0, -1).copy())


def random_heads(chosen: Bool[Tensor, "row h"], keys: Sequence[str]) -> Bool[Tensor, "row h"]:
    """As many other heads in each row, all others where they are fewer; rows are layers, or examples at one layer.

    keys: one for each row, as in `random_positions`; with one layer's rows the layer has to be in the key.
    """
    return random_positions(chosen, torch.ones_like(chosen), keys)


def random_circuits(circuit: Collection[Head], n_heads: int, draws: int = DRAWS, key: str = "") -> list[list[Head]]:
    """Random circuits with as many heads in every layer, (layer, head) in order, none of them a member of `circuit`.

    Where a layer has fewer other heads than members, the rest comes from the nearest layers that the circuit has; no
    draws where these too have not enough. key: an example's id, or "" where a batch shares the draws.
    """
    layers = sorted({layer for layer, _ in circuit})
    chosen = torch.zeros(len(layers), n_heads, dtype=torch.bool)
    for layer, head in circuit:
        chosen[layers.index(layer), head] = True
    if int(chosen.sum()) > chosen.numel() // 2:
        return []
    keys = [[f"{key} {draw} layer {layer}" for layer in layers] for draw in range(draws)]
    drawn = [_with_neighbours(random_heads(chosen, rows), chosen, layers, rows) for rows in keys]
    return [[(layers[row], head) for row, head in one.nonzero().tolist()] for one in drawn]


def _with_neighbours(
    drawn: Bool[Tensor, "row h"], chosen: Bool[Tensor, "row h"], layers: Sequence[int], keys: Sequence[str]
) -> Bool[Tensor, "row h"]:
    """The draw, with what a layer lacks taken from the layers next to it."""
    drawn = drawn.clone()
    for row, lacking in enumerate((chosen.sum(1) - drawn.sum(1)).tolist()):
        if lacking:
            free = [(abs(layers[i] - layers[row]), i, head) for i, head in (~chosen & ~drawn).nonzero().tolist()]
            luck = _numbers(f"{keys[row]} neighbours", (len(free),)).tolist()
            nearest = sorted(zip(free, luck, strict=True), key=lambda one: (one[0][0], one[1]))
            for (_, i, head), _luck in nearest[:lacking]:
                drawn[i, head] = True
    return drawn
