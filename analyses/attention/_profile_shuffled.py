"""The same tokens in another order: how wide attention is where there is no text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import stack_layers
from ..common.controls import permutations
from ._profile_rows import indicators

SHUFFLED = "shuffled tokens"
LENGTHS_OF = ("by length", "by length, twin")


def by_length_of_shuffled(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """LENGTHS_OF under "…|SHUFFLED" [b, layer, LENGTHS]; none where an example has an image, which has no order."""
    if bool(batch.where("image").any()):
        return {}
    ids = batch.inputs["input_ids"]
    other = replace(batch, inputs={**batch.inputs, "input_ids": ids.gather(1, _orders(batch).to(ids.device))})
    kept: list[dict[str, Tensor | None]] = []

    def keep(layer: Layer) -> None:
        found = indicators(layer, other)
        kept.append({f"{name}|{SHUFFLED}": found[name] for name in LENGTHS_OF})

    with tracing(subject, keep):
        subject.forward(other)
    return stack_layers(kept)


def _orders(batch: Batch) -> Int[Tensor, "b p"]:
    """Each example's positions, those behind the first token in another order; padding stays."""
    whole = torch.arange(batch.mask.shape[1]).repeat(len(batch.examples), 1)
    for row, own, name in zip(whole, batch.mask.cpu(), batch.example_ids, strict=True):
        at = own.nonzero()[1:, 0]
        row[at] = at[permutations(len(at), [f"{name} tokens"])[0]]
    return whole
