"""Which cells of a picture's map lie in which boxes."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from ...probes.prompts.geometry.views import Picture


def lies(picture: Picture, boxes: list) -> tuple[Bool[Tensor, "box cell"], Bool[Tensor, "box cell"]]:
    """Whether each cell's middle lies in each box, and whether the cell touches it."""
    edges = torch.zeros(*picture.shape, 4, dtype=torch.float64)
    for view in picture.mapped:
        edges[view.row : view.row + view.rows, view.column : view.column + view.columns] = view.boxes
    left, top, right, bottom = edges.flatten(0, 1).unbind(-1)
    x, y = (left + right) / 2, (top + bottom) / 2
    a, b, c, d = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4, 1).unbind(1)
    return (a <= x) & (x < c) & (b <= y) & (y < d), (left < c) & (a < right) & (top < d) & (b < bottom)
