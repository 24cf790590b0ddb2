"""What maps mark: CARVE's mask and TAG's surest region, and the boxes around them, against the asked box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import metrics
from ..common.controls import BOX, DRAWS, example_keys, one_of_each
from ..metrics import Box
from ._places import Place
from ._scoring import CENTRE, MIDDLE

SHARE, REGIONS = 0.2, 3  # of CARVE's code: the top fifth of the cells, and three of its regions at least
HALF = 0.5  # of TAG's code: cells from half the largest on
MARKS = ("mask", "box around it")


def mask_scores(
    method: str,
    maps: Float[Tensor, "layer cells"],
    place: Place,
    middles: Sequence[Sequence[float]],
    name: str,
    control: str = "",
) -> dict[str, Float[Tensor, "layer 2"]]:
    """ "mask <method>|<control>": IoU of the mask, and of the box around it, with the asked box; with middles also with
    other examples' boxes, mean over draws, and with one in the centre. NaN for a map of NaN.
    """
    masks = [None if bool(one.isnan().any()) else _marked(method, one) for one in place.laid(maps)]
    keys = [key for draw in range(DRAWS) for key in example_keys([name], draw)]
    boxes = {control: [place.box]}
    if middles:
        drawn = [place.moved(middle) for middle in one_of_each(middles, keys)]
        boxes |= {BOX: drawn, CENTRE: [place.moved(MIDDLE)]}
    return {f"mask {method}|{told}": _against(masks, some, place.shape) for told, some in boxes.items()}


def _marked(method: str, values: Float[Tensor, "rows columns"]) -> Bool[Tensor, "rows columns"]:
    if method == "CARVE":
        return metrics.top_regions(values, SHARE, REGIONS)
    labels, _ = metrics.label_regions(values >= HALF * values.max(), diagonal=True)
    return (labels == labels.flatten()[values.argmax()]) & (values.max() > 0)


def _against(
    masks: Sequence[Bool[Tensor, "rows columns"] | None], boxes: Sequence[Box], shape: tuple[int, int]
) -> Float[Tensor, "layer 2"]:
    truth = torch.stack([filled(box, shape) for box in boxes])
    whole = torch.full((len(masks), len(MARKS)), torch.nan)
    for row, mask in zip(whole, masks, strict=True):
        if mask is not None:
            around = filled(metrics.bounding_box(mask), shape) if bool(mask.any()) else mask
            for i, one in enumerate((mask, around)):
                row[i] = ((one & truth).sum((1, 2)) / (one | truth).sum((1, 2))).mean()
    return whole


def filled(box: Box, shape: Sequence[int]) -> Bool[Tensor, "rows columns"]:
    """The cells of a box."""
    cells = torch.zeros(tuple(shape), dtype=torch.bool)
    cells[box.y : box.y + box.height, box.x : box.x + box.width] = True
    return cells
