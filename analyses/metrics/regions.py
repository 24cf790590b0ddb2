"""Connected regions of a map over the image: entropy over them, the strongest, boxes around them."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._checks import require, widen
from .boxes import Box


def label_regions(cells: Bool[Tensor, "rows columns"], *, diagonal: bool) -> tuple[Int[Tensor, "rows columns"], int]:
    """Connected regions numbered from 1 (0 outside) and their number; diagonal: cells that touch at a corner join."""
    from scipy import ndimage  # here, since every analysis imports the metrics

    structure = ndimage.generate_binary_structure(2, 2 if diagonal else 1)
    labels = np.zeros(cells.shape, dtype=np.int32)
    ndimage.label(cells.cpu().numpy(), structure, output=labels)
    return torch.from_numpy(labels).long().to(cells.device), int(labels.max(initial=0))


def region_masses(
    values: Float[Tensor, "rows columns"], labels: Int[Tensor, "rows columns"], count: int
) -> Float[Tensor, "regions"]:
    """Sum of a map over each region of `label_regions`."""
    masses = widen(values).new_zeros(count + 1).index_add_(0, labels.flatten(), widen(values).flatten())
    return masses[1:]


def spatial_entropy(
    values: Float[Tensor, "rows columns"], above: float | int = 0.001, *, renormalized: bool = False
) -> Float[Tensor, ""]:
    """Entropy in nats over the 8-connected regions of relu(map − its mean), cells above `above`; 0…ln regions.

    One blob has about 0, be it a sink. p: a region's mass / all positive mass, as released, so p may sum below 1;
    `renormalized` divides by the regions' mass. above is absolute: scale it by 1/patches.
    Source: arXiv 2503.06287 (localization heads), code.
    """
    positive = (widen(values) - widen(values).mean()).clamp_min(0.0)
    masses = region_masses(positive, *label_regions(positive > above, diagonal=True))
    total = masses.sum() if renormalized else positive.sum()
    p = masses / total.clamp_min(torch.finfo(masses.dtype).tiny)
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum()


def top_regions(
    values: Float[Tensor, "rows columns"], top_share: float | int, keep: int = 3
) -> Bool[Tensor, "rows columns"]:
    """CARVE's mask: cells from the (1 − share) quantile on, and of their 4-connected regions those of largest sum.

    Kept are max(keep, ⌊share · regions⌋) regions, as in the code (the paper keeps at most K).
    Source: arXiv 2509.06461 (CARVE), code. Errors: ValueError for a share outside 0…1 or keep < 1.
    """
    require(0 <= top_share <= 1 and keep >= 1, f"top_share = {top_share}, keep = {keep}")
    wide = widen(values)
    labels, count = label_regions(wide >= wide.flatten().quantile(1 - top_share), diagonal=False)
    order = region_masses(wide, labels, count).sort(descending=True, stable=True).indices
    return torch.isin(labels, order[: max(keep, int(top_share * count))] + 1)


def bounding_box(cells: Bool[Tensor, "rows columns"]) -> Box:
    """The smallest box around all True cells. Errors: ValueError without any."""
    require(bool(cells.any()), "no cell is chosen")
    rows, columns = cells.any(1).nonzero()[:, 0], cells.any(0).nonzero()[:, 0]
    y, x = int(rows[0]), int(columns[0])
    return Box(y, x, int(rows[-1]) + 1 - y, int(columns[-1]) + 1 - x)


def region_boxes(values: Float[Tensor, "rows columns"], threshold: float | int) -> list[tuple[Box, float]]:
    """Boxes around the 8-connected regions of cells from `threshold` on, with each region's largest value.

    Row by row; what lies in a box that was found is not looked at again. Source: arXiv 2412.10840 (TAG), code.
    """
    left = values >= threshold
    boxes = []
    while bool(left.any()):
        labels, _ = label_regions(left, diagonal=True)
        region = labels == labels[labels > 0][0]
        box = bounding_box(region)
        boxes.append((box, float(values[region].max())))
        left[box.y : box.y + box.height, box.x : box.x + box.width] = False
    return boxes


def colour_complexity(hues: Int[Tensor, "*pixels"], bins: int = 180) -> Float[Tensor, ""]:
    """Entropy of the hues' histogram / ln bins, 0…1. hues: 0…bins − 1.

    Source: arXiv 2509.06461 (CARVE), Eq. 3.2. Errors: ValueError without pixels, for hues outside, bins < 2.
    """
    require(bins >= 2 and hues.numel() > 0, f"{hues.numel()} pixels, {bins} bins")
    require(bool(((hues >= 0) & (hues < bins)).all()), f"hues are not all in 0…{bins - 1}")
    shares = torch.bincount(hues.flatten().long(), minlength=bins).double() / hues.numel()
    return -torch.xlogy(shares, shares).sum() / math.log(bins)
