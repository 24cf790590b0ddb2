"""The same tokens in another order: how wide attention is where there is no text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import stack_layers
from ..common.controls import SHUFFLED_PROMPT, shuffled_tokens
from ._profile_rows import indicators

LENGTHS_OF = ("by length", "by length, twin")


def by_length_of_shuffled(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """LENGTHS_OF under "…|SHUFFLED_PROMPT" [b, layer, LENGTHS]; none where an example has an image: it has no order."""
    if bool(batch.where("image").any()):
        return {}
    other = shuffled_tokens(batch)
    kept: list[dict[str, Tensor | None]] = []

    def keep(layer: Layer) -> None:
        found = indicators(layer, other)
        kept.append({f"{name}|{SHUFFLED_PROMPT}": found[name] for name in LENGTHS_OF})

    with tracing(subject, keep):
        subject.forward(other)
    return stack_layers(kept)
