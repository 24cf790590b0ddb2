"""Proof that a vision tower is read as it computes, on the picture of the check; its decoder is proved apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...data.errors import SubjectError
from ..model.anatomy import first_line
from ..model.attention import AttentionCall
from ..model.stack import VISION
from ..model.tolerance import TOLERANCE, block_limit
from ..observe.tracing import Layer, tracing
from .findings import IMAGE, TOWER, Findings
from .layer_checks import check_attention, check_modules, check_parts, module_outputs

# Patches whose patterns are made: a picture may have thousands, in many tiles.
PATCHES = 16


def check_tower(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> None:
    """Two forwards of a prompt with an image: the tower watched, and without the heads of its first layer.

    logits: of the same prompt. A tower keeps its dtype, and so has the limits of a block in it. A tower that fails is a
    note: its decoder can be read all the same, and whoever asks for the tower is told why it cannot.
    """
    subject = findings.subject
    findings.side, findings.slack = TOWER, max(1.0, block_limit(subject.dtype) / TOLERANCE)
    try:
        if subject.vision is not None and _check_watched(findings, inputs, logits):
            _check_edited(findings, inputs, logits)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        subject.tower_fault = str(error) if isinstance(error, SubjectError) else first_line(error)
        findings.note(f"the tower is read as it computes ({subject.tower_fault})", "model", False, 0, 0)
    findings.side, findings.slack = IMAGE, 1.0


def _check_watched(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> bool:
    """The proofs of every layer, and that a watched tower computes what it did by itself; whether it has patterns."""
    stack, keep = findings.subject.stack(VISION), {}
    seen: list[int] = []
    calls: list[AttentionCall] = []

    def on_layer(layer: Layer) -> None:
        findings.true("every layer is seen once, in order", f"layer {layer.index}", layer.index == len(seen), 0, 0)
        seen.append(layer.index)
        patches = torch.ones(layer.z.shape[:2], dtype=torch.bool, device=layer.z.device)
        rows = torch.arange(patches.shape[1], device=patches.device)[:: max(1, patches.shape[1] // PATCHES)]
        calls.extend(layer.calls[:1])
        if layer.calls:
            check_attention(findings, layer, patches, keep, rows.expand(len(patches), -1))
        else:  # its patterns are refused by name when they are asked for
            findings.note("attention goes through transformers' interface", f"layer {layer.index}", False, 0, 0)
        check_parts(findings, layer, patches, keep)
        check_modules(findings, layer, patches, keep)
        for name in [name for name in keep if name.startswith(f"{layer.index}.")]:
            del keep[name]

    with module_outputs(stack, keep, projections=True), tracing(findings.subject, on_layer, stack=VISION):
        watched = findings.subject.forward(inputs, keep=0)
    findings.true("every layer is seen once, in order", "tower", len(seen) == stack.n_layers, len(seen), 0)
    findings.through("logits equal those of the tower by itself", "model", watched, logits)
    return len(calls) == stack.n_layers


def _check_edited(findings: Findings, inputs: dict[str, Any], logits: Tensor) -> None:
    with tracing(findings.subject, edits={0: _without_heads}, stack=VISION):
        moved = float((findings.subject.forward(inputs, keep=0) - logits).abs().max())
    floor = 2 * torch.finfo(torch.float32).eps * float(logits.max() - logits.min())
    findings.true("an edit moves the logits", "layer 0", moved > floor, moved, floor)


def _without_heads(call: AttentionCall) -> AttentionCall:
    return call.edited(head_scale=torch.zeros(1, call.query.shape[1], 1, device=call.query.device))
