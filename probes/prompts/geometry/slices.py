"""The whole picture, then slices of it, each with a size of its own: target_sizes (MiniCPM-V 4.6)."""

from __future__ import annotations

from torch import Tensor

from .seen import Seen, part, whole
from .views import THUMBNAIL, View, Views, in_order

# Patches of a side that become one token, by the name of the way.
MERGED = {"4x": 2, "16x": 4}


def target_sizes(seen: Seen) -> Views | None:
    """Rows and columns of the patches of each view; the processor writes a line of the prompt for a row of slices."""
    sizes = seen.pixels.get("target_sizes")
    merge = MERGED.get(getattr(seen.images, "downsample_mode", ""))
    if sizes is None or merge is None:
        return None
    opening, found, rest = str(seen.processor.slice_start_token), [], sizes // merge
    for size, block in zip(seen.sizes, seen.blocks, strict=True):
        lines = [line.count(opening) for line in block.split("\n")]
        n = 1 + sum(lines)
        found.append(_sliced(size, rest[:n], len(lines), lines[0]))
        rest = rest[n:]
    return found


def _sliced(size: tuple[int, int], grids: Tensor, down: int, across: int) -> tuple[View, ...]:
    (rows, columns), *slices = grids.tolist()
    views = [View(THUMBNAIL if slices else "picture", rows, columns, whole(size))]
    for i, (rows, columns) in enumerate(slices):
        row, column = divmod(i, across)
        views.append(View("tile", rows, columns, part(size, row, column, down, across), row * rows, column * columns))
    return in_order(views)
