"""Inputs of the tower that are pictures of their own: one of each picture, or tiles of it with a thumbnail."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence

from .framing import framed
from .seen import Seen, part, whole
from .views import THUMBNAIL, Box, View, Views, in_order

# Idefics3, SmolVLM and Granite Docling write it in front of every tile.
NAMED = re.compile(r"row_(\d+)_col_(\d+)")


def tiles(seen: Seen) -> Views | None:
    """Views of every picture, from how many inputs of the tower its placeholders are; None for another way."""
    pixels = seen.pixels.get("pixel_values")
    if pixels is None or pixels.ndim not in (4, 5):
        return None
    height, width = pixels.shape[-2:]
    stated = seen.pixels.get("image_sizes")
    if stated is not None and pixels.ndim == 4:  # Mistral 3: of each picture as it is resized
        shapes = zip(seen.sizes, stated.tolist(), strict=True)
        views = [seen.view("picture", whole(size), *shape) for size, shape in shapes]
        return [in_order([view]) for view in views if view]
    if stated is not None:
        return None
    found = [_of_one(seen, i, height, width) for i in range(len(seen.sizes))]
    return [views for views in found if views] if all(found) else None


def _of_one(seen: Seen, index: int, height: int, width: int) -> tuple[View, ...] | None:
    """The views of one picture, whose inputs of the tower are all of one size."""
    size = seen.sizes[index]
    one = seen.view("picture", whole(size), height, width)
    if one is None or not one.rows * one.columns:
        return None
    n = seen.counts[index] // (one.rows * one.columns)
    if n < 2:
        box = framed(seen.images, size, (width, height))
        view = seen.view("picture", box, height, width) if box else None
        return in_order([view]) if view else None
    boxes = _cut(seen, index, n)
    if boxes is None:
        return None
    cells = [seen.view("tile", box, height, width, row, column) for (row, column), box in boxes.items()]
    thumbnail, made = one._replace(kind=THUMBNAIL), [view for view in cells if view]
    return in_order([thumbnail, *made] if _opens_with_thumbnail(seen) else [*made, thumbnail])


def _opens_with_thumbnail(seen: Seen) -> bool:
    """Gemma 3 and Ovis2 begin with the whole picture, the others end with it."""
    return hasattr(seen.images, "pan_and_scan_min_crop_size") or "<IMG_GRID>" in seen.blocks[0]


def _cut(seen: Seen, index: int, n: int) -> dict[tuple[int, int], Box] | None:
    """Row and column of each of a picture's n - 1 tiles, and its box; None where no number tells them."""
    size = seen.sizes[index]
    if hasattr(seen.images, "pan_and_scan_min_crop_size"):
        return _crops(size, n - 1)
    grid = _grid(seen, index)
    if grid is None or grid[0] * grid[1] != n - 1:
        return None
    rows, columns = grid
    return {(row, column): part(size, row, column, rows, columns) for row in range(rows) for column in range(columns)}


def _grid(seen: Seen, index: int) -> Sequence[int] | None:
    """Rows and columns of tiles: what the processor writes between them, else what its own function of sizes says."""
    block, images = seen.blocks[index], seen.images
    named = [(int(row), int(column)) for row, column in NAMED.findall(block)]
    if named:
        return max(named)
    if "<IMG_GRID>" in block:  # Ovis2: between columns, and between rows
        rows = block.split("<IMG_ROW>")
        return len(rows), rows[0].count("<IMG_COL>") + 1
    choose = getattr(sys.modules.get(type(images).__module__), "get_optimal_tiled_canvas", None)
    if choose is None or not hasattr(images, "max_patches"):
        return None
    width, height = seen.sizes[index]
    tile = (images.size["height"], images.size["width"])
    return choose((height, width), tile, images.min_patches, images.max_patches)[::-1]


def _crops(size: tuple[int, int], n: int) -> dict[tuple[int, int], Box]:
    """Gemma 3's pan and scan: n crops side by side along the longer side, the last one smaller."""
    width, height = size
    if width >= height:
        step = math.ceil(width / n)
        return {(0, i): (step * i, 0, min(step * (i + 1), width), height) for i in range(n)}
    step = math.ceil(height / n)
    return {(i, 0): (0, step * i, width, min(step * (i + 1), height)) for i in range(n)}
