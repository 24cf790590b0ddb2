"""Which image tokens a box of the image touches, where one token is one patch of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .patches import grid
from .text_prompts import Encoded

if TYPE_CHECKING:
    from ...data.example import Example
    from ..model.subject import Subject


class View(NamedTuple):
    """How the picture came to the tower: scaled, then cut; tokens are squares of `patch` pixels, row by row."""

    scale: tuple[float, float]
    shift: tuple[float, float]
    patch: int
    rows: int
    columns: int


def mark(
    subject: Subject, example: Example, encoded: Encoded, sizes: Sequence[tuple[int, int]], pixels: Mapping[str, Tensor]
) -> Encoded:
    """`encoded` with a mark over image tokens for each of the example's boxes.

    Only for one image of one token per patch (LLaVA 1.5, PaliGemma); elsewhere boxes are left out, without a mark. A
    patch is marked where it overlaps the box by however little; arXiv 2411.18620 draws the box into the resized picture
    and takes the patches with a pixel of the pure colour, which leaves out some at the borders (IoU .99).
    sizes: width and height of the example's images, turned as their EXIF says; boxes are stated for these.
    """
    places = [i for i, role in enumerate(encoded.roles) if role == "image"]
    if not example.boxes or len(sizes) != 1:
        return encoded
    view = _view(subject, sizes[0], pixels, len(places))
    if view is None:
        return encoded
    marks = dict(encoded.marks)
    for name, found in example.boxes.items():
        cells = torch.stack([_cells(view, box) for box in found]).any(0).flatten().tolist() if found else []
        touched = {place for place, hit in zip(places, cells, strict=False) if hit}
        old = marks.get(name, [False] * len(encoded.ids))
        marks[name] = [was or i in touched for i, was in enumerate(old)]
    return replace(encoded, marks=marks)


def _view(subject: Subject, size: tuple[int, int], pixels: Mapping[str, Tensor], n: int) -> View | None:
    """None where tokens are not plain patches of the whole picture."""
    known, tensor = grid(subject.model, pixels, n), pixels.get("pixel_values")
    if known is None or tensor is None or tensor.ndim != 4:
        return None
    height, width = tensor.shape[-2:]
    scaled = _scaled(subject.processor.image_processor, size)
    if scaled is None or scaled[0] < width or scaled[1] < height:
        return None
    scale = (scaled[0] / size[0], scaled[1] / size[1])
    patch = subject.model.config.vision_config.patch_size
    return View(scale, ((scaled[0] - width) / 2, (scaled[1] - height) / 2), patch, *known)


def _scaled(processor: Any, size: tuple[int, int]) -> tuple[int, int] | None:
    """Width and height after the processor's resize; None for ways that are not known here."""
    if getattr(processor, "do_pad", None) or getattr(processor, "do_pan_and_scan", None):
        return None
    if not getattr(processor, "do_resize", False):
        return size
    wanted = processor.size
    read = wanted.get if isinstance(wanted, dict) else lambda name: getattr(wanted, name, None)
    width, height, short, long = (read(n) for n in ("width", "height", "shortest_edge", "longest_edge"))
    if width and height:
        return width, height
    if not short or long:
        return None
    long = int(short * max(size) / min(size))
    return (short, long) if size[0] <= size[1] else (long, short)


def _cells(view: View, box: tuple[int, int, int, int]) -> Tensor:
    """Bool[rows, columns]: the patches that overlap (left, top, right, bottom)."""

    def hit(low: float, high: float, axis: int, n: int) -> Tensor:
        start = torch.arange(n) * view.patch
        low, high = low * view.scale[axis] - view.shift[axis], high * view.scale[axis] - view.shift[axis]
        return (start < high) & (start + view.patch > low)

    left, top, right, bottom = box
    return hit(top, bottom, 1, view.rows)[:, None] & hit(left, right, 0, view.columns)[None]
