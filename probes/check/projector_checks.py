"""Proof that a projector is the MLP that it looks like, on the picture of the check."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...data.errors import SubjectError
from ..model import anatomy
from ..model.anatomy import first_line
from ..model.stack import PROJECTOR, Stack
from ..observe.tracing import Layer, tracing
from .findings import BETWEEN, IMAGE, Findings


def check_projector(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> None:
    """Two forwards of a prompt with an image: the projector watched, and without its neurons.

    logits: of the same prompt. One that fails is a note, and the subject has no projector: the rest can be read all the
    same.
    """
    subject, stack = findings.subject, findings.subject.projector
    if stack is None:
        return
    findings.side = BETWEEN
    try:
        _check_watched(findings, stack, inputs, logits)
        _check_edited(findings, inputs, logits)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        subject.projector_fault = str(error) if isinstance(error, SubjectError) else first_line(error)
        findings.note(f"the projector is read as it computes ({subject.projector_fault})", "model", False, 0, 0)
    findings.side = IMAGE


def _check_watched(findings: Findings, stack: Stack, inputs: dict[str, Any], logits: Tensor) -> None:
    """What it reads becomes its neurons, these through W_down what it writes; watching it changes nothing."""
    down, seen = anatomy.down_projection(stack.layers[0]), []

    def on_layer(layer: Layer) -> None:
        seen.append(layer.index)
        neurons = layer["mlp_post"]
        activated = anatomy.activation(layer.module)(layer["mlp_pre"])
        findings.close("the activation of mlp_pre is mlp_post", "layer 0", neurons, activated)
        written = neurons.float() @ stack.W_down(0).float()
        if isinstance(bias := getattr(down, "bias", None), Tensor):
            written = written + bias.float()
        findings.close("neurons through W_down are the MLP's output", "layer 0", written, layer["mlp_out"])

    with tracing(findings.subject, on_layer, stack=PROJECTOR):
        watched = findings.subject.forward(inputs, keep=0)
    findings.true("every layer is seen", "layer 0", bool(seen), len(seen), 1)
    findings.through("logits equal those of the projector by itself", "model", watched, logits)


def _check_edited(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> None:
    with tracing(findings.subject, rewrites={(0, "mlp_post"): torch.zeros_like}, stack=PROJECTOR):
        moved = float((findings.subject.forward(inputs, keep=0) - logits).abs().max())
    floor = 2 * torch.finfo(torch.float32).eps * float(logits.max() - logits.min())
    findings.true("a rewrite moves the logits", "layer 0", moved > floor, moved, floor)
