"""Which image tokens a box of the picture touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxtyping import Bool
from torch import Tensor

from .geometry.views import View
from .text_prompts import Encoded

if TYPE_CHECKING:
    from ...data.example import Example

TOLERANCE = 1e-6  # px, of the arithmetic


def mark(example: Example, encoded: Encoded) -> Encoded:
    """`encoded` with a mark over image tokens for each of the example's boxes, which are of its one picture.

    A token is marked where its cell overlaps a box by however little, in tiles and in the thumbnail alike; arXiv
    2411.18620 draws the box into the resized picture and takes the patches with a pixel of the pure colour, which
    leaves out some at the borders (IoU .99). Where the geometry is not known, or the example has several pictures,
    boxes are left out, without a mark.
    """
    pictures = encoded.geometry.pictures
    if not example.boxes or len(pictures) != 1:
        return encoded
    (picture,), marks = pictures, dict(encoded.marks)
    for name, found in example.boxes.items():
        marked = list(marks.get(name, [False] * len(encoded.ids)))
        for view in picture.views:
            for position in picture.at(view)[_touched(view, found)].tolist():
                marked[position] = True
        marks[name] = marked
    return replace(encoded, marks=marks)


def _touched(view: View, boxes: Sequence[tuple[int, int, int, int]]) -> Bool[Tensor, "rows columns"]:
    """The cells that overlap one of (left, top, right, bottom)."""
    left, top, right, bottom = view.boxes.unbind(-1)
    touched = left > right  # none
    for low_x, low_y, high_x, high_y in boxes:
        across = (left < high_x - TOLERANCE) & (right > low_x + TOLERANCE)
        touched |= across & (top < high_y - TOLERANCE) & (bottom > low_y + TOLERANCE)
    return touched
