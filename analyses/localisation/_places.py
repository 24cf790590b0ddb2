"""Where an example's box lies on the map of its picture, and other boxes of its size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.prompts.batch import Batch
from .. import metrics
from ..metrics import Box

WIDTH = 4  # sides of the map in two standard deviations of the Gaussian in its centre


class Place(NamedTuple):
    """positions: of the map's cells in the padded prompt, row by row. shape: its rows and columns. box: of cells."""

    positions: Int[Tensor, " cells"]
    shape: tuple[int, int]
    box: Box

    def laid(self, values: Float[Tensor, "*maps cells"]) -> Float[Tensor, "*maps rows columns"]:
        """Values of the cells, row by row and padded behind the last, as maps."""
        return values[..., : len(self.positions)].unflatten(-1, self.shape)

    def relative(self) -> tuple[float, float]:
        """The middle of the box as shares of the map's height and width."""
        box, (rows, columns) = self.box, self.shape
        return (box.y + box.height / 2) / rows, (box.x + box.width / 2) / columns

    def moved(self, middle: Sequence[float]) -> Box:
        """A box of the same size around another middle, as far as the map lets it."""
        box, (rows, columns) = self.box, self.shape
        y, x = middle[0] * rows - box.height / 2, middle[1] * columns - box.width / 2
        return box._replace(y=min(max(round(y), 0), rows - box.height), x=min(max(round(x), 0), columns - box.width))

    def gaussian(self) -> Float[Tensor, "rows columns"]:
        """A bell in the middle of the map, its standard deviation a quarter of each side."""
        across = [torch.linspace(-1, 1, side) * WIDTH / 2 for side in self.shape]
        down, along = ((-0.5 * one.square()).exp() for one in across)
        return down[:, None] * along


@lru_cache(maxsize=4)  # every layer asks for the same
def places(batch: Batch, name: str) -> list[Place | None]:
    """The place of each example's box of that name.

    None: not one picture, one of unknown geometry, or not one box that lies on the map.
    """
    marks = batch.marks.get(name)
    found: list[Place | None] = []
    for row, (example, geometry, start) in enumerate(
        zip(batch.examples, batch.geometry, batch.start.tolist(), strict=True)
    ):
        alone = len(geometry.pictures) == 1 and len(example.boxes.get(name, ())) == 1
        if marks is None or not alone:
            found.append(None)
            continue
        cells = geometry.pictures[0].map + start
        touched = marks[row][cells]
        box = metrics.bounding_box(touched) if bool(touched.any()) else None
        found.append(None if box is None else Place(cells.flatten(), (cells.shape[0], cells.shape[1]), box))
    return found


def on_cells(values: Float[Tensor, "b *rest p"], where: Sequence[Place | None]) -> Float[Tensor, "b *rest cells"]:
    """Values at positions on the cells of each example's map, row by row; NaN behind the last and without a map."""
    most = max((len(place.positions) for place in where if place is not None), default=0)
    out = values.new_full((*values.shape[:-1], most), torch.nan)
    for row, place in enumerate(where):
        if place is not None:
            out[row, ..., : len(place.positions)] = values[row][..., place.positions.to(values.device)]
    return out
