"""The same counts of the vision tower's neurons, over the patches of each example's pictures."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...probes.model.stack import VISION
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch, one_by_one
from ..common.ragged import stacked
from ._counts import active, has_neurons, largest, removal, with_tokens


def tower_has_neurons(subject: Any) -> bool:
    """Whether there is a tower, and its MLPs have neurons in every layer."""
    tower = subject.vision
    return tower is not None and all(has_neurons(tower, layer) for layer in range(tower.n_layers))


def tower_counts(subject: Any, batch: Batch, top: float) -> dict[str, Tensor]:
    """ "active", "important" [b, layer, n], "tokens" [b, layer] as `_counts.counted`, over all positions of the tower,
    a class token among them; NaN for examples without a picture, nothing where none has one. One example after the
    other, since towers may pack the pictures of several.
    """
    shown = batch.where("image").any(1).tolist()
    if not any(shown) or not tower_has_neurons(subject):
        return {}
    alone = one_by_one(subject, batch)
    return stacked([_of_example(subject, one, top) if there else {} for one, there in zip(alone, shown, strict=True)])


class _Read(Exception):
    """The tower has run: the rest of the forward is not needed."""


@torch.no_grad()
def _of_example(subject: Any, batch: Batch, top: float) -> dict[str, Tensor]:
    totals: dict[int, list[Tensor]] = {}

    def keep(layer: Layer) -> None:  # once, or once for each picture
        everywhere = torch.ones(layer.resid_pre.shape[:2], dtype=torch.bool, device=layer.resid_pre.device)
        sums = [of(layer, everywhere).sum(0, keepdim=True).cpu() for of in (active, removal)]
        sums.append(torch.tensor([everywhere.numel()]))
        before = totals.get(layer.index, [torch.zeros_like(one) for one in sums])
        totals[layer.index] = [one + more for one, more in zip(before, sums, strict=True)]

    with suppress(_Read), tracing(subject, keep, stack=VISION), tracing(subject, _stop):
        subject.forward(batch)
    found = [
        with_tokens({"active": fires, "important": largest(size, top)}, tokens)
        for fires, size, tokens in totals.values()
    ]
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def _stop(layer: Layer) -> None:
    """Behind the decoder's first layer all pictures have been seen."""
    raise _Read
