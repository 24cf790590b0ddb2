"""Which image tokens a box of the image touches, where one token is one patch of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from .encode import Encoded

if TYPE_CHECKING:
    from ..data.example import Example
    from .subject import Subject


class View(NamedTuple):
    """How the picture came to the tower: scaled, then cut; tokens are squares of `patch` pixels, row by row."""

    scale: tuple[float, float]
    shift: tuple[float, float]
    patch: int
    rows: int
    columns: int


def mark(subject: Subject, example: Example, encoded: Encoded, pixels: Mapping[str, Tensor], index: int) -> Encoded:
    """`encoded` with a mark over image tokens for each of the example's boxes.

    Only for one image of one token per patch (LLaVA 1.5, PaliGemma); elsewhere boxes are left out, without a mark.
    index: of the example's image in `pixels`.
    """
    pictures = [s.content for s in example.segments if isinstance(s.content, Image)]
    places = [i for i, role in enumerate(encoded.roles) if role == "image"]
    if not example.boxes or len(pictures) != 1:
        return encoded
    view = _view(subject, pictures[0].size, pixels.get("pixel_values"), len(places))
    if view is None:
        return encoded
    marks = dict(encoded.marks)
    for name, found in example.boxes.items():
        cells = torch.stack([_cells(view, box) for box in found]).any(0).flatten().tolist() if found else []
        touched = {place for place, hit in zip(places, cells, strict=False) if hit}
        old = marks.get(name, [False] * len(encoded.ids))
        marks[name] = [was or i in touched for i, was in enumerate(old)]
    return replace(encoded, marks=marks)


def _view(subject: Subject, size: tuple[int, int], pixels: Tensor | None, n: int) -> View | None:
    """None where tokens are not plain patches of the whole picture."""
    patch = getattr(getattr(subject.model.config, "vision_config", None), "patch_size", None)
    if pixels is None or pixels.ndim != 4 or not isinstance(patch, int):
        return None
    height, width = pixels.shape[-2:]
    rows, columns = height // patch, width // patch
    scaled = _scaled(subject.processor.image_processor, size)
    if rows * columns != n or scaled is None or scaled[0] < width or scaled[1] < height:
        return None
    scale = (scaled[0] / size[0], scaled[1] / size[1])
    return View(scale, ((scaled[0] - width) / 2, (scaled[1] - height) / 2), patch, rows, columns)


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
