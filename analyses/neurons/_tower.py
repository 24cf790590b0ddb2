"""The same counts of the vision tower's and the projector's neurons, over the patches of each example's pictures."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...probes.model.stack import PROJECTOR, VISION, Stack
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch, one_by_one
from ..common.ragged import stacked
from ._counts import BEFORE, active, has_neurons, largest, removal, with_tokens

Sums = dict[tuple[str, int], list[Tensor]]


def before_decoder(subject: Any) -> dict[str, Stack]:
    """By part of the model the stacks that see pictures before the decoder and have neurons in every layer."""
    stacks = {VISION: subject.vision, PROJECTOR: subject.projector}
    found = {part: stacks[name] for part, name in BEFORE.items() if stacks[name] is not None}
    return {part: one for part, one in found.items() if all(has_neurons(one, i) for i in range(one.n_layers))}


def counts_before(subject: Any, batch: Batch, top: float) -> dict[str, dict[str, Tensor]]:
    """By part "active", "important" [b, layer, n], "tokens" [b, layer] as `_counts.counted`, over all positions that it
    is given, a class token among them; NaN for examples without a picture, nothing where none has one. One example
    after the other, since towers may pack the pictures of several.
    """
    shown, stacks = batch.where("image").any(1).tolist(), before_decoder(subject)
    if not any(shown) or not stacks:
        return {}
    alone = zip(one_by_one(subject, batch), shown, strict=True)
    found = [_of_example(subject, stacks, one, top) if there else {} for one, there in alone]
    return {part: stacked([one.get(part, {}) for one in found]) for part in stacks}


class _Read(Exception):
    """All pictures have been seen: the rest of the forward is not needed."""


@torch.no_grad()
def _of_example(subject: Any, stacks: dict[str, Stack], batch: Batch, top: float) -> dict[str, dict[str, Tensor]]:
    totals: Sums = {}
    with ExitStack() as open_:
        open_.enter_context(suppress(_Read))
        for part, stack in stacks.items():
            open_.enter_context(tracing(subject, partial(_add, totals, part), stack=stack.name))
        open_.enter_context(tracing(subject, _stop))
        subject.forward(batch)
    return {part: _counted([sums for (of, _), sums in totals.items() if of == part], top) for part in stacks}


def _add(totals: Sums, part: str, layer: Layer) -> None:
    """Once, or once for each picture."""
    neurons = layer["mlp_pre"]
    everywhere = torch.ones(neurons.shape[:2], dtype=torch.bool, device=neurons.device)
    sums = [of(layer, everywhere).sum(0, keepdim=True).cpu() for of in (active, removal)]
    sums.append(torch.tensor([everywhere.numel()]))
    before = totals.get((part, layer.index), [torch.zeros_like(one) for one in sums])
    totals[part, layer.index] = [one + more for one, more in zip(before, sums, strict=True)]


def _counted(layers: list[list[Tensor]], top: float) -> dict[str, Tensor]:
    found = [with_tokens({"active": fires, "important": largest(size, top)}, tokens) for fires, size, tokens in layers]
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def _stop(layer: Layer) -> None:
    """Behind the decoder's first layer all pictures have been seen."""
    raise _Read
