"""How the likeliest next word's log-probability hangs on what heads write at its place, and on the pictures' pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..observe.layer import Layer
from ..observe.tracing import tracing
from ..prompts.batch import Batch
from .attribution import frozen_weights
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
    left: list[Tensor] = [torch.zeros(0)]

    def seen(layer: Layer) -> None:
        written.append(layer.attn_z if layer.attends else None)
        left[0] = layer.resid_post
        if watch is not None:
            with torch.no_grad():
                watch(layer)

    begin = {(0, "resid_pre"): lambda x: x if x.requires_grad else x.detach().requires_grad_()}
    with frozen_weights(subject.model):
        with tracing(subject, seen, rewrites=begin):
            subject.forward(arguments, gradient=True)
        with torch.enable_grad():
            logits = subject.unembed(subject.norm(at_last(left[0], places.to(left[0].device)))).float()
            value = logits.log_softmax(-1).amax(-1).sum()
        of = [z for z in written if z is not None]
        found = iter(torch.autograd.grad(value, [*of, *shown]))
    slopes = [None if z is None else at_last(next(found), places.to(z.device)).float() for z in written]
    return Slopes(slopes, next(found).float() if shown else None)


def log_p_of(
    subject: Subject, inputs: dict[str, Any], places: Int[Tensor, " b"], ids: Int[Tensor, " b"] | None = None
) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
    """The log-probability of one token behind each place, and its id; without `ids` of the likeliest."""
    columns, where = places.unique(return_inverse=True)
    logits = subject.forward(inputs, keep=columns)
    own = logits[torch.arange(len(places), device=logits.device), where.to(logits.device)].float().log_softmax(-1)
    ids = own.argmax(-1) if ids is None else ids.to(own.device)
    return own.gather(1, ids[:, None])[:, 0].cpu(), ids.cpu()
