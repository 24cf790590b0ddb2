"""What the last position attends to, head by head: every mark of the prompts, and what uniform attention gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import stack_layers
from .. import metrics


def attention_on_marks(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """Mark -> attention of the last position on it, [b, layer, head]; NaN in layers without heads."""
    marks: list[Mapping[str, Tensor | None]] = []

    def keep(layer: Layer) -> None:
        if not layer.attends:
            marks.append(dict.fromkeys(batch.marks))
            return
        pattern = layer.pattern(batch.last[:, None])
        on = {name: metrics.attention_share(pattern, where.to(pattern.device)) for name, where in batch.marks.items()}
        marks.append({name: share[..., 0].cpu() for name, share in on.items()})

    with tracing(subject, keep):
        subject.forward(batch)
    return stack_layers(marks)


def uniform_on_marks(batch: Batch) -> dict[str, Tensor]:
    """Mark -> what attention to all tokens alike would give it, [b]; NaN where a prompt has no such mark."""
    seen = batch.mask.sum(1)
    counts = {name: (where.cpu() & batch.mask.cpu()).sum(1) for name, where in batch.marks.items()}
    return {name: torch.where(n > 0, n / seen.cpu(), torch.nan) for name, n in counts.items()}
