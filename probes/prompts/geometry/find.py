"""The geometry of one example: which way of laying out its pictures the numbers tell, and whether they add up."""

from __future__ import annotations

from collections.abc import Sequence

from .packed import packed
from .patch_grids import grids_thw, position_ids
from .seen import Seen
from .slices import target_sizes
from .tiles import tiles
from .views import NO_NUMBERS, OTHER_COUNT, UNEVEN, Geometry, Picture

WAYS = (grids_thw, position_ids, target_sizes, packed, tiles)


def find(seen: Seen, positions: Sequence[Sequence[int]]) -> Geometry:
    """positions: of the placeholders of each picture in the prompt, 0 is its first token.

    Unknown where no number tells the layout, where what they tell does not fill the placeholders exactly, and where
    tiles do not join.
    """
    found = next((views for way in WAYS if (views := way(seen)) is not None), None)
    if not found or len(found) != len(positions) or not all(found):
        return Geometry(unknown=NO_NUMBERS)
    if any(views[-1].end != len(own) for views, own in zip(found, positions, strict=True)):
        return Geometry(unknown=OTHER_COUNT)
    given = zip(seen.sizes, found, positions, strict=True)
    pictures = tuple(Picture(size, views, tuple(own)) for size, views, own in given)
    return Geometry(pictures) if all(map(_joins, pictures)) else Geometry(unknown=UNEVEN)


def _joins(picture: Picture) -> bool:
    """Whether the tiles fill the picture's map, and none lies over another."""
    whole = picture.map
    return bool((whole >= 0).all()) and sum(view.rows * view.columns for view in picture.mapped) == whole.numel()
