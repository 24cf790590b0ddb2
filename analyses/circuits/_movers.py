"""The movers: the heads that write the answer, and their queries as receivers of paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...probes.intervene.paths import Receiver, path_sweep
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.contrast import contrast


def listed(heads: Sequence[Sequence[int]]) -> str:
    """ "23.3, 29.1", or "none"."""
    return ", ".join(f"{layer}.{head}" for layer, head in heads) or "none"


def movers(subject: Any, batches: Sequence[Batch], count: int) -> list[list[int]]:
    """The heads of largest |effect| on the path to the output, as [layer, head]."""
    effects = []
    for batch in batches:
        found = contrast(subject, batch)
        effects.append(path_sweep(subject, found.base, found.donor, measure=found.measure).effects)
    return [list(head) for head in metrics.top_heads(torch.cat(effects).mean(0), 1.0)[:count]]


def queries_of(heads: Sequence[Sequence[int]], first: int = 0) -> list[Receiver]:
    """Their queries as receivers; those of the first layer with heads hear no head."""
    return [Receiver(layer, head, "q") for layer, head in heads if layer > first]
