"""Whether what heads write is pattern · v · W_O, or a gate or a norm stands between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...data.errors import UserError
from ..model.vision_inputs import few_words
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
