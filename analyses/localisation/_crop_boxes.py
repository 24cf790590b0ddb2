"""Where an example's picture is cropped: where its maps say, at random, in the middle, around the asked object."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple
from zlib import crc32

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from ...probes.prompts.geometry.views import Picture
from .. import metrics
from ..common.controls import example_keys
from ..metrics import Box
from ._places import Place

Pixels = tuple[int, int, int, int]  # left, top, right, bottom
ATTENDED, CARVED, CENTRE, OBJECT = "attention crop", "CARVE crop", "centre crop", "crop around the asked object"
RANDOM, RANDOM_CARVED = "random crop of the same size", "random crop of the CARVE crop's size"
CROPS = (ATTENDED, CARVED, CENTRE, OBJECT, RANDOM, RANDOM_CARVED)
RATIOS = (1, 1.2, 1.4, 1.6, 1.8, 2)  # of the model's input size, as in the code of arXiv 2502.17422


class Shown(NamedTuple):
    """The one picture of an example: what it is, where its map's cells stand in the prompt, the asked object's box."""

    picture: Picture
    place: Place
    asked: Pixels | None

    @property
    def area(self) -> float:
        """The asked object's share of the picture; NaN without one."""
        return np.nan if self.asked is None else _area(self.asked) / (self.picture.size[0] * self.picture.size[1])


def shown(batch: Batch, asked: str = "") -> list[Shown | None]:
    """Of each example; None where it has not one picture, or the geometry of its tokens is not known."""
    found: list[Shown | None] = []
    for example, geometry, start in zip(batch.examples, batch.geometry, batch.start.tolist(), strict=True):
        if len(geometry.pictures) != 1:
            found.append(None)
            continue
        picture, boxes = geometry.pictures[0], example.boxes.get(asked, ())
        positions = picture.map + start
        rows, columns = positions.shape
        place = Place(positions.flatten(), (rows, columns), Box(0, 0, rows, columns))
        found.append(Shown(picture, place, boxes[0] if len(boxes) == 1 else None))
    return found


def crops(
    one: Shown, relative: Tensor, fused: Tensor, window: int, share: float, regions: int, name: str, draws: int
) -> dict[str, list[Pixels]]:
    """The crops by name: of the random ones as many as draws, of the others one, around the object none without it.

    relative, fused: maps [cells], of relative attention and of CARVE's fusion. window: the model's input size in px.
    """
    size, keys = one.picture.size, [key for draw in range(draws) for key in example_keys([name], draw)]
    attended = adaptive(one, relative, window)
    carved = around_regions(one, fused, share, regions)
    middle = (size[0] // 2, size[1] // 2)
    found = {
        ATTENDED: [attended],
        CARVED: [carved],
        CENTRE: [_around(middle, _sides(attended), size)],
        RANDOM: [at_random(_sides(attended), size, key) for key in keys],
        RANDOM_CARVED: [at_random(_sides(carved), size, f"{key} CARVE") for key in keys],
    }
    return found | ({} if one.asked is None else {OBJECT: [around_object(one.asked, window, size)]})


def adaptive(one: Shown, values: Float[Tensor, " cells"], window: int) -> Pixels:
    """`metrics.adaptive_crop` on what the map covers, in pixels of the whole picture. No window is below a cell."""
    left, top, right, bottom = map(round, one.picture.box)
    rows, columns = one.place.shape
    least = max(window, ceil((right - left) / columns), ceil((bottom - top) / rows))
    x1, y1, x2, y2 = metrics.adaptive_crop(one.place.laid(values), (right - left, bottom - top), least, RATIOS)
    return _inside((left + x1, top + y1, left + x2, top + y2), one.picture.size)


def around_regions(one: Shown, values: Float[Tensor, " cells"], share: float, regions: int) -> Pixels:
    """The box around CARVE's mask: of the top share of cells the connected regions of largest sum."""
    laid = one.place.laid(values)
    box = metrics.bounding_box(metrics.top_regions(laid, share, regions))
    left, top, right, bottom = one.picture.box
    wide, tall = (right - left) / laid.shape[1], (bottom - top) / laid.shape[0]
    first = left + box.x * wide, top + box.y * tall
    return _inside((*first, first[0] + box.width * wide, first[1] + box.height * tall), one.picture.size)


def around_object(asked: Pixels, window: int, size: tuple[int, int]) -> Pixels:
    """The smallest of the windows that holds the object, around it: what no map could do better. A larger object's own
    box.
    """
    longest = max(_sides(asked))
    side = next((int(window * ratio) for ratio in RATIOS if window * ratio >= longest), longest)
    return _around(((asked[0] + asked[2]) // 2, (asked[1] + asked[3]) // 2), (side, side), size)


def at_random(sides: tuple[int, int], size: tuple[int, int], key: str) -> Pixels:
    """A crop of these sides anywhere in the picture, the same for the same key."""
    rng = np.random.default_rng(crc32(key.encode()))
    left, top = (int(rng.integers(0, whole - side + 1)) for side, whole in zip(sides, size, strict=True))
    return left, top, left + sides[0], top + sides[1]


def covered(asked: Pixels | None, crop: Pixels) -> float:
    """The share of the asked object that lies in the crop; NaN without one."""
    if asked is None:
        return np.nan
    sides = (min(asked[i + 2], crop[i + 2]) - max(asked[i], crop[i]) for i in (0, 1))
    width, height = (max(side, 0) for side in sides)
    return width * height / _area(asked)


def _around(middle: tuple[int, int], sides: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """A box of these sides around a point, moved to lie in the picture, cut where it is larger."""
    edges = []
    for at, side, whole in zip(middle, sides, size, strict=True):
        side = min(side, whole)
        low = min(max(at - side // 2, 0), whole - side)
        edges.append((low, low + side))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _inside(box: Sequence[float], size: tuple[int, int]) -> Pixels:
    """In whole pixels of the picture, one at least each way: what a map covers may reach beyond it."""
    edges = []
    for low, high, whole in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        low = min(max(round(low), 0), whole - 1)
        edges.append((low, min(max(round(high), low + 1), whole)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _sides(box: Pixels) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _area(box: Pixels) -> int:
    width, height = _sides(box)
    return width * height
