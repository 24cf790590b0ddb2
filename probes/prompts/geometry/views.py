"""What is known of an example's pictures: views of each, their cells, and the prompt's position of every cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor

Box = tuple[float, float, float, float]
THUMBNAIL = "thumbnail"
# Why a geometry is not known, one sentence each; the first stands for one that is. Rows of runs hold their index.
REASONS = (
    "",
    "none of this model's or its processor's numbers says how its image tokens lie on a picture",
    "the numbers of this model and of its processor make another count of image tokens than the prompt holds",
    "its tiles have different numbers of rows or columns and do not join to one map",
)
NO_NUMBERS, OTHER_COUNT, UNEVEN = REASONS[1:]


class View(NamedTuple):
    """One look at a picture: rows × columns cells, a token each, in one order row by row.

    kind: "picture" (all of it), "tile" (a part), "thumbnail" (all of it beside tiles) or "frame" (of a video).
    box: left, top, right, bottom of what the cells cover together, in pixels of the picture; it may reach beyond where
    the processor pads. row, column: of the first cell on the picture's map, which joins tiles. start: the first
    cell's place among the picture's placeholders; stride: placeholders from a row to the next, which is more than
    `columns` where rows end in a newline; behind: more of them behind the last row.
    """

    kind: str
    rows: int
    columns: int
    box: Box
    row: int = 0
    column: int = 0
    start: int = 0
    stride: int = 0
    behind: int = 0

    @property
    def end(self) -> int:
        """The place behind its last one."""
        return self.start + self.rows * self.stride + self.behind

    @property
    def places(self) -> Int[Tensor, "rows columns"]:
        """Of every cell, among the picture's placeholders."""
        return self.start + torch.arange(self.rows)[:, None] * self.stride + torch.arange(self.columns)

    @property
    def boxes(self) -> Float[Tensor, "rows columns 4"]:
        """Left, top, right, bottom of every cell, in pixels of the picture, padding included."""
        left, top, right, bottom = self.box
        across, down = _edges(left, right, self.columns), _edges(top, bottom, self.rows)
        shape = (self.rows, self.columns)
        sides = (across[:-1], down[:-1, None], across[1:], down[1:, None])
        return torch.stack([side.expand(shape) for side in sides], -1)


def _edges(low: float, high: float, n: int) -> Tensor:
    """n + 1 numbers from low to high; whole ones are exact."""
    steps = torch.arange(n + 1, dtype=torch.float64)
    return (low * (n - steps) + high * steps) / n


# What a layout finds: the views of each picture.
Views = list[tuple[View, ...]]


@dataclass(frozen=True, repr=False)
class Picture:
    """One picture of an example: its views, and where its placeholders stand in the prompt.

    size: width and height, turned as its EXIF says. positions: of its placeholders, 0 is the prompt's first token.
    """

    size: tuple[int, int]
    views: tuple[View, ...]
    positions: tuple[int, ...]

    def __repr__(self) -> str:
        """Picture(640 × 480 pixels: 4 × tile 8 × 8, thumbnail 8 × 8)"""
        alike = Counter((view.kind, view.rows, view.columns) for view in self.views)
        said = [
            f"{n} × {kind} {rows} × {columns}" if n > 1 else f"{kind} {rows} × {columns}"
            for (kind, rows, columns), n in alike.items()
        ]
        return f"Picture({self.size[0]} × {self.size[1]} pixels: {', '.join(said)})"

    def at(self, view: View) -> Int[Tensor, "rows columns"]:
        """Positions in the prompt of a view's cells."""
        return torch.tensor(self.positions)[view.places]

    @property
    def mapped(self) -> tuple[View, ...]:
        """The views that the picture's map is made of: all but the thumbnail."""
        return tuple(view for view in self.views if view.kind != THUMBNAIL)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the picture's map: its tiles side by side, frames below each other."""
        rows = max(view.row + view.rows for view in self.mapped)
        return rows, max(view.column + view.columns for view in self.mapped)

    @property
    def box(self) -> Box:
        """What the map covers, in pixels of the picture."""
        lefts, tops, rights, bottoms = zip(*(view.box for view in self.mapped), strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def cut(self, image: Image) -> Image:
        """What the map covers, of the image that this picture is; the image itself where that is all of it."""
        left, top, right, bottom = map(round, self.box)
        whole = (left, top, right, bottom) == (0, 0, *image.size)
        return image if whole else image.crop((left, top, right, bottom))

    @property
    def map(self) -> Int[Tensor, "rows columns"]:
        """Positions in the prompt of every cell of the map."""
        found = torch.full(self.shape, -1)
        for view in self.mapped:
            found[view.row : view.row + view.rows, view.column : view.column + view.columns] = self.at(view)
        return found


@dataclass(frozen=True)
class Geometry:
    """An example's pictures in order; none where it has none, or where `unknown` says why they are not known."""

    pictures: tuple[Picture, ...] = ()
    unknown: str = ""


def in_order(views: Sequence[View], newline: int = 0) -> tuple[View, ...]:
    """The views one behind the other, `newline` placeholders behind each row."""
    placed, start = [], 0
    for view in views:
        placed.append(view._replace(start=start, stride=view.columns + newline))
        start = placed[-1].end
    return tuple(placed)
