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
    with ExitStack() as hooks:
        head = HeadWatch(model, hooks)

        @torch.no_grad()
        def run() -> None:
            try:
                with replaying(_note_heads):
                    head.tell_scale(model(**vision_inputs.few_words(model), use_cache=False).logits)
            except SubjectError:
                raise
            except Exception:  # a family that needs more than words: its check says so
                return

        tell_parts(layers, run)


def _note_heads(call: AttentionCall) -> None:
    anatomy.HEADS[call.module] = call.query.shape[1], call.key.shape[1]
