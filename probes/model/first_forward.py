"""What one forward of a few words tells of a model: its layers' parts and heads, its logit scale."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ...data.errors import SubjectError
from . import anatomy, vision_inputs
from .attention import AttentionCall, replaying
from .block_sums import tell_parts
from .head import HeadWatch


def tell(model: Any, layers: list[nn.Module]) -> None:
    """Notes them where names do not say them. SubjectError: layers that cannot be read, such as residual streams.

    The decoder must ask for crosslens' attention already.
    """
    calls: list[nn.Module] = []
    with ExitStack() as hooks:
        head = HeadWatch(model, hooks)

        def attend(call: AttentionCall) -> None:
            calls.append(call.module)
            anatomy.HEADS[call.module] = call.query.shape[1], call.key.shape[1]

        @torch.no_grad()
        def run() -> None:
            try:
                with replaying(attend):
                    head.tell_scale(model(**vision_inputs.few_words(model), use_cache=False).logits)
            except SubjectError:
                raise
            except Exception:  # a family that needs more than words: its check says so
                return
            _require_calls(layers, calls)

        tell_parts(layers, run)


def _require_calls(layers: list[nn.Module], calls: list[nn.Module]) -> None:
    within = [set(layer.modules()) for layer in layers]
    inside = [[module for module in calls if module in modules] for modules in within]
    if not any(inside):
        raise SubjectError(
            "none of its layers calls transformers' attention interface: its attention, where it has one, is written "
            "in its own code, so its patterns cannot be read or edited"
        )
    for index, own in enumerate(inside):
        if len(own) > len(set(own)):
            raise SubjectError(
                f"layer {index} calls its attention {len(own)} times: which pattern is whose is not known"
            )
