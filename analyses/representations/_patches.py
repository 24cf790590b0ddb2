"""Some patches of every picture, inside and outside of the boxes of its things, and what lies on each."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.example import Example
from ...data.tasks.scenes import things_of
from ...data.world.world import COLOURS, SHAPES
from ...probes.prompts.batch import Batch
from ...probes.prompts.geometry.views import Picture
from ..common.boxes_on_maps import lies

WORDS = {"colour": [*COLOURS], "shape": [*SHAPES]}
OF_A_PATCH = 5  # numbers


class Patches(NamedTuple):
    """positions: in the padded prompt, −1 behind an example's last one. cell: row and column on the picture's map;
    size: the map's own. inside: whether the patch's middle lies in a box, 0 where it touches none; thing: colour and
    shape of what lies there, as indices into WORDS. NaN where unknown, and behind the last patch.
    """

    positions: Int[Tensor, "b patch"]
    cell: Float[Tensor, "b patch 2"]
    size: Int[Tensor, "b 2"]
    inside: Float[Tensor, "b patch"]
    thing: Float[Tensor, "b patch 2"]


@lru_cache(maxsize=4)  # every layer asks for the same
def patches(batch: Batch, count: int) -> Patches:
    """Up to `count` patches an example, half inside of a box and half outside of all, the same in any batch. None for
    an example without boxes, with several pictures, or with one of unknown geometry.
    """
    made = Patches(
        torch.full((len(batch.examples), count), -1),
        torch.full((len(batch.examples), count, 2), torch.nan),
        torch.zeros(len(batch.examples), 2, dtype=torch.long),
        torch.full((len(batch.examples), count), torch.nan),
        torch.full((len(batch.examples), count, 2), torch.nan),
    )
    for row, (example, geometry) in enumerate(zip(batch.examples, batch.geometry, strict=True)):
        if example.boxes and len(geometry.pictures) == 1:
            _fill(made, row, example, geometry.pictures[0], int(batch.start[row]))
    return made


def _fill(made: Patches, row: int, example: Example, picture: Picture, start: int) -> None:
    boxes = [box for several in example.boxes.values() for box in several]
    within, touched = lies(picture, boxes)
    cells = _drawn(within.any(0), ~touched.any(0), example.id, made.positions.shape[1])
    n = len(cells)
    made.size[row] = torch.tensor(picture.shape)
    made.positions[row, :n] = picture.map.flatten()[cells] + start
    made.cell[row, :n] = torch.stack([cells // picture.shape[1], cells % picture.shape[1]], 1).float()
    made.inside[row, :n] = within.any(0)[cells].float()
    things = things_of(example)
    for at, cell in enumerate(cells.tolist()):
        over = [things[box] for box, there in zip(boxes, within[:, cell], strict=True) if there and box in things]
        if over:
            told = WORDS["colour"].index(over[0].colour), WORDS["shape"].index(over[0].shape)
            made.thing[row, at] = torch.tensor(told, dtype=torch.float32)


def _drawn(inside: Tensor, outside: Tensor, name: str, count: int) -> Int[Tensor, " n"]:
    """Cells in a random order of the example's own: as many inside as outside at most."""
    order = np.random.default_rng(crc32(f"{name} patches".encode())).permutation(len(inside))
    own, other = ([cell for cell in order if bool(where[cell])] for where in (inside, outside))
    half = count // 2
    return torch.tensor([*own[:half], *other[: count - half]], dtype=torch.long)


def at_patches(tensor: Float[Tensor, "b p d"], positions: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """NaN for positions below 0."""
    there = positions.to(tensor.device)
    found = tensor.gather(1, there.clamp_min(0)[..., None].expand(-1, -1, tensor.shape[2]))
    return found.masked_fill((there < 0)[..., None], torch.nan)


def patch_rows(batch: Batch, count: int) -> dict[str, Tensor]:
    """ "patch|told" [b, patch, OF_A_PATCH]: row, column, inside, colour and shape; without any patch nothing."""
    found = patches(batch, count)
    if bool((found.positions < 0).all()):
        return {}
    return {"patch|told": torch.cat([found.cell, found.inside[..., None], found.thing], -1)}
