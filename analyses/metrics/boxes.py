"""Maps over the image against boxes: scores of a map, and the crop to look at again."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import NAN, require, widen


class Box(NamedTuple):
    """Cells of a map: the first row and column, the number of rows and columns."""

    y: int
    x: int
    height: int
    width: int


def box_sums(values: Float[Tensor, "*maps rows columns"], height: int, width: int) -> Float[Tensor, "*maps y x"]:
    """Sum of every box of a size, by its first cell. Errors: ValueError for a box that does not fit."""
    rows, columns = values.shape[-2:]
    require(1 <= height <= rows and 1 <= width <= columns, f"{height} × {width} does not fit into {rows} × {columns}")
    corner = torch.nn.functional.pad(widen(values).double().cumsum(-2).cumsum(-1), (1, 0, 1, 0))
    tall = corner[..., height:, :] - corner[..., :-height, :]
    return (tall[..., width:] - tall[..., :-width]).to(widen(values).dtype)


class BoxScores(NamedTuple):
    """ratio: ≥ 0, 1 by chance. share, area: 0…1, to be compared. hit: the largest cell lies in the box (where several
    are as large, all of them). iou: 0…1, of as many top cells as the box has. auroc: 0…1, ½ by chance; NaN where the
    box is the whole map.
    """

    ratio: Float[Tensor, ""]
    share: Float[Tensor, ""]
    area: float
    hit: bool
    iou: float
    auroc: float


def box_scores(values: Float[Tensor, "rows columns"], box: Box) -> BoxScores:
    """How well a map of ≥ 0 finds a box. ratio: sum in the box / mean sum of all boxes of that size.

    Controls: another example's box, a centre box, the map permuted. Source: arXiv 2502.17422 (attention ratio; the
    snippet that its authors posted takes maxima of windows instead), the rest standard. Errors: ValueError for a box
    that does not lie in the map.
    """
    ratio, share, hit, iou, auroc = map_scores(values, box)
    return BoxScores(ratio, share, box.height * box.width / values.numel(), bool(hit == 1), iou.item(), auroc.item())


def map_scores(values: Float[Tensor, "*maps rows columns"], box: Box) -> Float[Tensor, "5 *maps"]:
    """`box_scores` of many maps at once: ratio, share, hit, iou, auroc.

    Where cells are alike, what any order among them would give on average counts: hit is the share of the largest cells
    that lie in the box, and so for the last of the top cells. Scores of a map of zeros are those of chance, ratio and
    share NaN; all are NaN of a map with NaN. Errors: ValueError as in `box_scores`.
    """
    sums = box_sums(values, box.height, box.width)
    inside_map = 0 <= box.y < sums.shape[-2] and 0 <= box.x < sums.shape[-1]
    require(inside_map, f"{box} is not inside {tuple(values.shape[-2:])}")
    inside = torch.zeros(values.shape[-2:], dtype=torch.bool, device=values.device)
    inside[box.y : box.y + box.height, box.x : box.x + box.width] = True
    cells, chosen = widen(values).flatten(-2), inside.flatten()
    within, size = sums[..., box.y, box.x], int(chosen.sum())
    hits = _hits(cells, chosen, size)
    found = (
        within / sums.mean((-2, -1)),
        within / cells.sum(-1),
        _hits(cells, chosen, 1),
        hits / (2 * size - hits),
        _auroc(cells, chosen),
    )
    return torch.stack(found).masked_fill(cells.isnan().any(-1), NAN)


def _hits(cells: Tensor, chosen: Tensor, count: int) -> Tensor:
    """How many of the `count` largest cells are chosen; of those alike with the last, in proportion."""
    last = cells.topk(count, -1).values[..., -1:]
    above, alike = cells > last, cells == last
    left = count - above.sum(-1)
    return (above & chosen).sum(-1) + left * (alike & chosen).sum(-1) / alike.sum(-1).clamp(min=1)


def _auroc(cells: Tensor, chosen: Tensor) -> Tensor:
    """Probability that a chosen cell is above one of the others, ties half."""
    own, other = cells[..., chosen].contiguous(), cells[..., ~chosen]
    if other.shape[-1] == 0:
        return torch.full_like(cells[..., 0], NAN)
    ordered = other.sort(-1).values
    below, upto = (torch.searchsorted(ordered, own, right=right) for right in (False, True))
    return ((below + upto).to(cells.dtype).mean(-1) / 2 / other.shape[-1]).to(cells.dtype)


def adaptive_crop(
    values: Float[Tensor, "rows columns"],
    image_size: Sequence[int] | Int[Tensor, "2"],
    window: int,
    ratios: Sequence[float | int] = (1, 1.2, 1.4, 1.6, 1.8, 2),
) -> tuple[int, int, int, int]:
    """The crop to look at again, (x1, y1, x2, y2) in pixels: a square of r × `window` around the best place.

    image_size: (width, height); window: the model's input size. For each r the window of cells of largest sum; the r
    with the largest (its sum − mean sum of its up to four neighbours) / cells; moved and cut to lie in the image. The
    whole image where a window at r = 1 covers the map. Source: arXiv 2502.17422, code.
    Errors: ValueError for a window smaller than a cell.
    """
    width, height = (int(length) for length in image_size)
    cell = width / values.shape[1], height / values.shape[0]
    places = []
    for ratio in ratios:
        columns, rows = (
            min(int(window * ratio / size), count) for size, count in zip(cell, reversed(values.shape), strict=True)
        )
        if columns == values.shape[1] and rows == values.shape[0]:
            if not places:
                return 0, 0, width, height
            continue
        sharpness, y, x = _sharpest(box_sums(values, rows, columns), rows * columns)
        places.append((sharpness, window * ratio, (x + columns / 2) * cell[0], (y + rows / 2) * cell[1]))
    _, side, middle_x, middle_y = max(places, key=lambda place: place[0])
    (x1, x2), (y1, y2) = _inside(middle_x, side, width), _inside(middle_y, side, height)
    return x1, y1, x2, y2


def _sharpest(sums: Tensor, cells: int) -> tuple[float, int, int]:
    """How far the largest sum is above its neighbours, by cell, and where it is (the first column, then row)."""
    x, y = divmod(int(sums.T.reshape(-1).argmax()), sums.shape[0])
    around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
    neighbours = [sums[i, j] for i, j in around if 0 <= i < sums.shape[0] and 0 <= j < sums.shape[1]]
    return float((sums[y, x] - torch.stack(neighbours).mean()) / cells), y, x


def _inside(middle: float | int, side: float | int, length: int) -> tuple[int, int]:
    """A side around the middle, moved to lie in 0…length, cut where it is longer."""
    half = int(side // 2)
    middle = min(max(int(middle), half), length - half)
    return max(0, middle - half), min(length, middle + half)
