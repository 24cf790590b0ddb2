"""The gradient of a measure at what every head writes, kept with the attention that it came from.

From it the gradient at any entry of a pattern follows without a pattern: ∂m/∂A[q, k] = g_q · v_k.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..model.attention import AttentionCall
from ..observe.layer import Layer
from ..observe.tracing import tracing
from ..prompts.batch import Batch
from .attribution import frozen_weights
from .measures import Measure
from .positions import at_last

if TYPE_CHECKING:
    from ..model.subject import Subject


class AttentionSlopes(NamedTuple):
    """One layer: its attention, z as it writes it and g = ∂(Σ measure)/∂z, both float32 [b, p, h, d_head]."""

    index: int
    call: AttentionCall
    z: Float[Tensor, "b p h d"]
    g: Float[Tensor, "b p h d"]


def attention_slopes(subject: Subject, batch: Batch, measure: Measure) -> list[AttentionSlopes]:
    """Of every layer with heads, by one forward and one backward pass. measure: of the last position's logits.

    Queries, keys and values of all layers stay alive, as large as a cache, and what the way back needs while it lasts.
    """
    kept: list[tuple[int, AttentionCall, Tensor]] = []
    left: list[Tensor] = []

    def seen(layer: Layer) -> None:
        if layer.attends:
            kept.append((layer.index, layer.attention, layer.attn_z))
        left[:] = [layer.resid_post]

    begin = {(0, "resid_pre"): lambda x: x if x.requires_grad else x.detach().requires_grad_()}
    with frozen_weights(subject.model):
        with tracing(subject, seen, rewrites=begin):
            subject.forward(batch.inputs, gradient=True)
        with torch.enable_grad():
            logits = subject.unembed(subject.norm(at_last(left[0], batch.last.to(left[0].device)))).float()
            value = measure(logits, torch.arange(len(logits), device=logits.device)).sum()
        slopes = torch.autograd.grad(value, [z for *_, z in kept])
    return [
        AttentionSlopes(index, _detached(call), z.detach().float(), g.float())
        for (index, call, z), g in zip(kept, slopes, strict=True)
    ]


def _detached(call: AttentionCall) -> AttentionCall:
    return call.edited(query=call.query.detach(), key=call.key.detach(), value=call.value.detach())
