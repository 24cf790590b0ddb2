"""Inputs that tell each picture's grid of patches: image_grid_thw (Qwen-VL, GLM-V), image_position_ids (Gemma 4)."""

from __future__ import annotations

from .seen import Seen, whole
from .views import View, Views, in_order


def grids_thw(seen: Seen) -> Views | None:
    """Frames, rows and columns of each picture over the merger's; the whole picture is resized to them."""
    grids, given = seen.pixels.get("image_grid_thw"), seen.pixels.get("image_merge_sizes")  # VideoLLaMA 3 gives both
    if grids is None:
        return None
    merges = given.tolist() if given is not None else [seen.merge] * len(grids)
    found = []
    for (frames, rows, columns), merge, size in zip(grids.tolist(), merges, seen.sizes, strict=True):
        rows, columns = rows // merge, columns // merge
        kind = "picture" if frames == 1 else "frame"
        found.append(in_order([View(kind, rows, columns, whole(size), i * rows) for i in range(frames)]))
    return found


def position_ids(seen: Seen) -> Views | None:
    """Column and row of each patch, -1 where there is none; `pooling_kernel_size` of a side are pooled."""
    ids = seen.pixels.get("image_position_ids")
    if ids is None:
        return None
    sides = (ids.amax(1) + 1) // seen.merge
    return [
        in_order([View("picture", rows, columns, whole(size))])
        for (columns, rows), size in zip(sides.tolist(), seen.sizes, strict=True)
    ]
