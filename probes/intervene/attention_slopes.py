"""The gradient of a measure at what every head writes, kept with the attention that it came from.

From it the gradient at any entry of a pattern follows without a pattern: ∂m/∂A[q, k] = g_q · v_k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..model.attention import AttentionCall
from ..observe.layer import Layer
from ..observe.tracing import tracing
from ..prompts.batch import Batch
from .attribution import frozen_weights
from .measures import Measure

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

    def seen(layer: Layer) -> None:
        if layer.attends:
            kept.append((layer.index, layer.attention, layer.attn_z))

    logits = logits_with_graph(subject, batch.inputs, batch.last, seen)
    with torch.enable_grad():
        value = measure(logits, torch.arange(len(logits), device=logits.device)).sum()
    slopes = torch.autograd.grad(value, [z for *_, z in kept])
    return [
        AttentionSlopes(index, _detached(call), z.detach().float(), g.float())
        for (index, call, z), g in zip(kept, slopes, strict=True)
    ]


def logits_with_graph(
    subject: Subject, inputs: Mapping[str, Any], places: Int[Tensor, " b"], watch: Callable[[Layer], Any]
) -> Float[Tensor, "b vocab"]:
    """Logits behind one position of each example, float32, with the graph back to what `watch` is shown of each layer.

    It begins where the first layer reads, or before, where something there asks for a gradient.
    """
    begin = {(0, "resid_pre"): lambda x: x if x.requires_grad else x.detach().requires_grad_()}
    with frozen_weights(subject.model), tracing(subject, watch, rewrites=begin), torch.enable_grad():
        return subject.logits_at(inputs, places, gradient=True).float()


def _detached(call: AttentionCall) -> AttentionCall:
    return call.edited(query=call.query.detach(), key=call.key.detach(), value=call.value.detach())
