"""Values at a prompt's positions as maps over its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .views import REASONS

if TYPE_CHECKING:
    from ..batch import Batch


def maps(batch: Batch, values: Float[Tensor, "b p"]) -> list[list[Float[Tensor, "rows columns"]]]:
    """For each example a map of each of its pictures: the values at their cells, tiles joined, thumbnails left out.

    [] for an example without pictures, or of unknown geometry: `batch.geometry[i].unknown` says why.
    """
    starts = batch.start.tolist()
    return [
        [row[picture.map.to(row.device) + start] for picture in geometry.pictures]
        for row, start, geometry in zip(values, starts, batch.geometry, strict=True)
    ]


def grids(batch: Batch) -> Int[Tensor, "b 2"]:
    """Rows and columns of the map of each example's first picture; 0 × 0 where it is not known, or there is none."""
    return torch.tensor([g.pictures[0].shape if g.pictures else (0, 0) for g in batch.geometry])


def cells(batch: Batch) -> Float[Tensor, "b n"]:
    """Where each of an example's patches (`batch.where("patches")`, in order) lies on its first picture's map.

    row · columns + column; NaN for patches of other pictures, of an unknown geometry, and behind the last patch.
    """
    patches = batch.where("patches")
    place = torch.full(patches.shape, torch.nan)
    for row, start, geometry in zip(place, batch.start.tolist(), batch.geometry, strict=True):
        if geometry.pictures:
            found = geometry.pictures[0].map.flatten()
            row[found + start] = torch.arange(len(found), dtype=row.dtype)
    order = (~patches).int().argsort(dim=1, stable=True)[:, : int(patches.sum(1).max())]
    return place.gather(1, order).masked_fill(~patches.gather(1, order), torch.nan)


def reasons(batch: Batch) -> Int[Tensor, " b"]:
    """Why each example's geometry is not known, as an index into REASONS; 0 where it is."""
    return torch.tensor([REASONS.index(geometry.unknown) for geometry in batch.geometry])
