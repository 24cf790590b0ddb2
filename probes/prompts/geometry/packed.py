"""The whole picture small, then its tiles joined, the padding cut off, a learned newline behind each row.

LLaVA-NeXT, LLaVA-OneVision: the model's own packing is asked, with zeros for features and one for the newline.
"""

from __future__ import annotations

import math
import sys
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .seen import Seen, whole
from .views import THUMBNAIL, Box, View, Views, in_order


def packed(seen: Seen) -> Views | None:
    """Views of every picture; None for another way, or a packing of fewer features than patches (Granite 4 Vision)."""
    inner, sizes = getattr(seen.model, "model", None), seen.pixels.get("image_sizes")
    own = sys.modules.get(type(inner).__module__)
    if sizes is None or getattr(inner, "image_newline", None) is None or hasattr(inner, "downsample_rate"):
        return None
    if seen.patch is None or not hasattr(own, "unpad_image"):
        return None
    several = len(sizes) > 1 and "batch_num_images" in seen.pixels  # OneVision cuts no tiles out of one of several
    return [_views(seen, own, size, stated, not several) for size, stated in zip(seen.sizes, sizes, strict=True)]


def _views(seen: Seen, own: Any, size: tuple[int, int], stated: Tensor, tiled: bool) -> tuple[View, ...]:
    """stated: height and width as the processor gives them to the model."""
    config = seen.model.config
    side = config.vision_config.image_size
    base = seen.view("picture", whole(size), side, side)
    tiles = own.image_size_to_num_patches(stated, config.image_grid_pinpoints, side) if tiled else 1
    if base is None:
        return ()
    n = base.rows * base.columns
    ends = _newlines(seen, torch.zeros(tiles, n, 1), stated)[n:]
    if all(ends):  # no tiles, or a picture so thin that nothing is left of them
        return in_order([base._replace(behind=len(ends))])
    joined = View("picture", sum(ends), ends.index(True), _unpadded(own, size, stated, config))
    (joined,) = in_order([joined], newline=1)
    return *in_order([base._replace(kind=THUMBNAIL)]), joined._replace(start=n)


@torch.no_grad()
def _newlines(seen: Seen, features: Tensor, stated: Tensor) -> list[bool]:
    """Which of a picture's placeholders get the newline."""
    pack, config = seen.model.model.pack_image_features, seen.model.config
    takes = signature(pack).parameters
    asked = {n: getattr(config, n) for n in ("vision_feature_select_strategy", "vision_aspect_ratio") if n in takes}
    given, _ = pack([features], stated[None], image_newline=torch.ones(1), **asked)
    return given[0][:, 0].bool().tolist()


def _unpadded(own: Any, size: tuple[int, int], stated: Tensor, config: Any) -> Box:
    """What is left of the canvas of tiles when the model has cut off the padding, in pixels of the picture.

    The picture keeps its shape and lies in the middle of the canvas. OneVision's interpolation to fewer cells leaves
    their box as it is. Where a tile is no whole number of patches, cells are off by at most its rest.
    """
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    tiles = own.get_anyres_image_grid_shape(stated, config.image_grid_pinpoints, side)
    cells = torch.meshgrid(*(torch.arange(n * (side // patch)) for n in tiles), indexing="ij")
    kept = own.unpad_image(torch.stack(cells), stated)
    canvas = [n * side for n in tiles]
    scale = min(whole / one for whole, one in zip(canvas, size[::-1], strict=True))
    box = []
    for axis, length in enumerate(size[::-1]):
        resized = min(math.ceil(length * scale), canvas[axis])
        padding = (canvas[axis] - resized) // 2
        first, last = int(kept[axis].min()), int(kept[axis].max())
        edges = (_pixel(first, side, patch), _pixel(last, side, patch) + patch)
        box.append([(edge - padding) * length / resized for edge in edges])
    (top, bottom), (left, right) = box
    return left, top, right, bottom


def _pixel(cell: int, side: int, patch: int) -> int:
    """Where a cell of the joined tiles begins, in pixels of the canvas."""
    return cell // (side // patch) * side + cell % (side // patch) * patch
