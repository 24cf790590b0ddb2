"""How the likeliest next word's log-probability hangs on what heads write at its place, and on the pictures' pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..observe.layer import Layer
from ..prompts.batch import Batch
from .attention_slopes import logits_with_graph
from .positions import at_last

if TYPE_CHECKING:
    from ..model.subject import Subject


class Slopes(NamedTuple):
    """z: by layer ∂ log p/∂ attn_z at the place, [b, h, d_head], None without heads. pixels: ∂ log p/∂ pixel_values,
    of their shape, None where they were not asked for. Float32.
    """

    z: list[Tensor | None]
    pixels: Tensor | None


def answer_slopes(
    subject: Subject,
    batch: Batch,
    places: Int[Tensor, " b"],
    watch: Callable[[Layer], Any] | None = None,
    *,
    pixels: bool = False,
) -> Slopes:
    """One forward and one backward pass: log p of the likeliest word behind each place.

    watch: called with each layer, without gradients. pixels: whether they are followed too; the graph then begins in
    the vision tower, else where the decoder's first layer reads.
    """
    arguments = dict(batch.inputs)
    shown = [arguments["pixel_values"].detach().clone().requires_grad_()] if pixels else []
    arguments |= dict(zip(("pixel_values",), shown, strict=False))
    written: list[Tensor | None] = []

    def seen(layer: Layer) -> None:
        written.append(layer.attn_z if layer.attends else None)
        if watch is not None:
            with torch.no_grad():
                watch(layer)

    logits = logits_with_graph(subject, arguments, places, seen)
    with torch.enable_grad():
        value = logits.log_softmax(-1).amax(-1).sum()
    found = iter(torch.autograd.grad(value, [*(z for z in written if z is not None), *shown]))
    slopes = [None if z is None else at_last(next(found), places).float() for z in written]
    return Slopes(slopes, next(found).float() if shown else None)
