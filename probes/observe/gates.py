"""Whether what heads write is pattern · v · W_O, or a gate or a norm stands between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...data.errors import UserError
from ..model.vision_inputs import few_words
from .layer import Layer
from .tracing import tracing

if TYPE_CHECKING:
    from ..model.subject import Subject


class GateError(UserError):
    """What heads write is not pattern · v · W_O."""


@torch.no_grad()
def require_no_gate(subject: Subject, what: str) -> None:
    """GateError where a gate, or a norm, stands between any layer's attention and W_O; told from a small forward."""
    gated: list[int] = []
    with tracing(subject, lambda layer: gated.extend([layer.index] if layer.gated else [])):
        subject.forward(few_words(subject.model))
    if gated:
        raise GateError(
            f"{what}: a gate or a norm stands between values and W_O in layer {gated[0]} of {subject.family}, "
            "so a head does not write pattern · v · W_O"
        )


@torch.no_grad()
def require_no_gate_of_the_residual(subject: Subject, what: str) -> None:
    """GateError where a gate made from the residual scales what heads write; a norm of it alone is none.

    Told from two small forwards of different words whose attention gives the same: what W_O reads differs by a gate.
    """
    words, read = few_words(subject.model), []
    rewrites = dict.fromkeys(((i, "attn_z") for i in subject.decoder.attending), torch.ones_like)
    for ids in (words["input_ids"], words["input_ids"].flip(-1)):
        z: dict[int, torch.Tensor] = {}
        with tracing(
            subject, lambda layer, z=z: z.update({layer.index: layer.z} if layer.attends else {}), rewrites=rewrites
        ):
            subject.forward(words | {"input_ids": ids})
        read.append(z)
    gated = [i for i, z in read[0].items() if not torch.equal(z, read[1][i])]
    if gated:
        raise GateError(
            f"{what}: the heads of layer {gated[0]} of {subject.family} are scaled by a gate that reads the residual "
            "stream too, and its reading is no edge"
        )


def _keep_z(kept: dict[int, torch.Tensor], layer: Layer) -> None:
    if layer.attends:
        kept[layer.index] = layer.z
