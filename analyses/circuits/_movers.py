"""The movers, the heads that they hear, and so on back: a stage's heads are the receivers of the next one's paths."""

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


def movers(
    subject: Any, batches: Sequence[Batch], count: int, *, until: int | None = None, helping: bool = False
) -> list[list[int]]:
    """The heads of largest |effect| on the path to the output, as [layer, head]. until: only up to this layer.
    helping: only heads that the answer loses by.
    """
    effects = []
    for batch in batches:
        found = contrast(subject, batch)
        effects.append(path_sweep(subject, found.base, found.donor, measure=found.measure).effects)
    by_head = torch.cat(effects)
    if until is not None:
        by_head[:, until + 1 :] = 0
    return _strongest(by_head, count, helping)


def heard_by(
    subject: Any,
    batches: Sequence[Batch],
    receivers: Sequence[Receiver],
    count: int,
    *,
    at_last: bool,
    helping: bool = False,
) -> list[list[int]]:
    """The heads of largest |effect| on the path to some receivers, as [layer, head]; none without receivers.

    at_last: whether the receivers are changed at the last position alone, else at every one. helping: only heads
    that the answer loses by.
    """
    effects = []
    for batch in batches if receivers else ():
        found = contrast(subject, batch)
        both = {"measure": found.measure, "positions": found.base.final if at_last else None}
        effects.append(path_sweep(subject, found.base, found.donor, receivers, **both).effects)
    return _strongest(torch.cat(effects), count, helping) if effects else []


def _strongest(effects: torch.Tensor, count: int, helping: bool = False) -> list[list[int]]:
    """Those that do anything: a head behind all receivers is heard by none."""
    mean = effects.mean(0)
    mean = mean.clamp(max=0) if helping else mean
    return [list(head) for head in metrics.top_heads(mean, 1.0)[:count] if mean[head] != 0]


def queries_of(heads: Sequence[Sequence[int]], first: int = 0) -> list[Receiver]:
    """Their queries as receivers; those of the first layer with heads hear no head."""
    return parts_of(heads, "q", first)


def parts_of(heads: Sequence[Sequence[int]], parts: str, first: int = 0) -> list[Receiver]:
    """Some heads' parts, "q" or "kv", as receivers; those of the first layer with heads hear no head."""
    return [Receiver(layer, head, part) for layer, head in heads if layer > first for part in parts]
