"""Where each prompt's gaze moves to as its question is read, GIFT-style; and the same map at other patches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.changed import changed
from ..common.controls import another_image, example_keys, permutations
from ..common.ragged import padded
from ..common.stretches import rows_of, stretches

SOURCE = 11  # of 32 layers: where arXiv 2510.22067 reads the map


class Gazes(NamedTuple):
    """saliency [b, patch]: of each image token in order, 0…1, 0 behind a prompt's last. there: it could be read."""

    saliency: Float[Tensor, "b patch"]
    there: Bool[Tensor, "b"]


def source_layer(subject: Any) -> int:
    """Layer 11 of 32, scaled to the model; of its layers with attention the nearest."""
    wanted = round(SOURCE * subject.n_layers / 32)
    return min(subject.decoder.attending, key=lambda layer: abs(layer - wanted))


@torch.no_grad()
def gazes(subject: Any, batch: Batch, mark: str) -> Gazes:
    """By one observed pass. mark: the words of the question that are followed, all of them where none is marked."""
    runs, image = stretches(batch, mark), batch.where("image")
    kept: list[Tensor] = []

    def keep(layer: Layer) -> None:
        if layer.index == source_layer(subject):
            kept.append(layer.pattern(rows_of(runs).to(layer.resid_pre.device)).float().cpu())

    with tracing(subject, keep):
        subject.forward(batch)
    maps = []
    for rows, run, own in zip(kept[0], runs, image, strict=True):
        if run is None or not bool(own.any()):
            maps.append(torch.zeros(0))
        else:
            maps.append(metrics.gaze_shift(rows[None, :, : len(run.positions), own], run.words).saliency)
    there = torch.tensor([len(one) > 0 for one in maps])
    return Gazes(padded(maps, int(image.sum(1).max())).nan_to_num().float(), there)


def elsewhere(found: Gazes, batch: Batch, draw: int) -> Gazes:
    """The same numbers at other patches of each picture."""
    moved, counts = found.saliency.clone(), batch.where("image").sum(1).tolist()
    for row, (count, key) in enumerate(zip(counts, example_keys(batch.example_ids, draw), strict=True)):
        moved[row, :count] = moved[row, :count][permutations(count, [key])[0]]
    return found._replace(saliency=moved)


def of_another_image(subject: Any, batch: Batch, mark: str) -> Gazes:
    """What the same question has of an unrelated picture, as far as both have as many image tokens."""
    width = int(batch.where("image").sum(1).max())
    nothing = Gazes(torch.zeros(len(batch.examples), width), torch.zeros(len(batch.examples), dtype=torch.bool))
    other = changed(subject, batch, another_image)
    if other is None:
        return nothing
    found = gazes(subject, other.batch, mark)
    same = other.batch.where("image").sum(1) == batch.where("image").sum(1)[other.chosen]
    whole = nothing.saliency.clone()
    shared = min(width, found.saliency.shape[1])
    whole[other.chosen, :shared] = found.saliency[:, :shared] * same[:, None]
    nothing.there[other.chosen] = found.there & same
    return Gazes(whole, nothing.there)
