"""Occlusion: by how much the answer's log-probability falls where a block of the picture is blank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.prompts.batch import Batch
from ._places import Place


def pixels_of(batch: Batch) -> Int[Tensor, " b"] | None:
    """Which of the processed pictures is each example's first; None where a processor cuts pictures into tiles or
    packs their patches, so that pixels do not lie as on the map.
    """
    pixels, counts = batch.inputs.get("pixel_values"), torch.tensor([len(e.images) for e in batch.examples])
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or len(pixels) != int(counts.sum()):
        return None
    return counts.cumsum(0) - counts


def occlusion_maps(
    subject: Any, batch: Batch, where: Sequence[Place | None], at: Int[Tensor, " b"], blocks: int
) -> dict[str, Float[Tensor, "b 1 cells"]]:
    """{"occlusion": what each cell's block gives the likeliest word's log-probability, ≥ 0}; nothing without pixels.

    The picture is cut into `blocks` × `blocks`; a block is blank at 0, the mean of what the processor makes of
    pictures. One forward for each block, all examples together.
    """
    shown = pixels_of(batch)
    if shown is None:
        return {}
    pixels = batch.inputs["pixel_values"]
    before, ids = _log_p(subject, batch.inputs, at).max(-1)
    y, x = (torch.arange(size) * blocks // size for size in pixels.shape[-2:])
    drops = torch.zeros(len(before), blocks, blocks)
    for row, column in torch.cartesian_prod(torch.arange(blocks), torch.arange(blocks)).tolist():
        hidden = ((y == row)[:, None] & (x == column)).to(pixels.device)
        blank = batch.inputs | {"pixel_values": pixels.masked_fill(hidden, 0.0)}
        drops[:, row, column] = before - _log_p(subject, blank, at).gather(1, ids[:, None])[:, 0]
    most = max((len(place.positions) for place in where if place is not None), default=0)
    maps = torch.full((len(before), 1, most), torch.nan)
    for i, place in enumerate(where):
        if place is not None:
            down, along = (torch.arange(side) * blocks // side for side in place.shape)
            maps[i, 0, : len(place.positions)] = drops[i][down][:, along].clamp_min(0.0).flatten()
    return {"occlusion": maps}


def _log_p(subject: Any, inputs: Mapping[str, Any], at: Int[Tensor, " b"]) -> Float[Tensor, "b vocab"]:
    return subject.logits_at(inputs, at).float().log_softmax(-1).cpu()
