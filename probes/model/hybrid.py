"""Models whose layers have mixers of several kinds: which of them are attention is told by who calls the interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import anatomy, vision_inputs
from .attention import AttentionCall, replaying


def tell_attention(model: Any, layers: list[nn.Module]) -> None:
    """Notes which mixers with an attention's name are none, where mixers differ: one forward of a few words.

    The decoder must ask for crosslens' attention already.
    """
    mixers = [anatomy.mixer_of(layer) for layer in layers]
    if len({type(mixer) for mixer in mixers}) == 1:
        return
    callers = _callers(model)
    for mixer in mixers:
        if mixer in callers:
            anatomy.SILENT.discard(mixer)
        else:
            anatomy.SILENT.add(mixer)


def runs_whole(layer: nn.Module) -> bool:
    """Whether a layer mixes positions otherwise than by an attention alone: in its place, or beside it (Falcon H1).

    Such a layer has a state of all earlier rows, so it cannot be computed on some of its rows.
    """
    return not anatomy.attends(layer) or any(getattr(layer, name, None) is not None for name in anatomy.MIXERS)


@torch.no_grad()
def _callers(model: Any) -> set[nn.Module]:
    """The modules that call the attention interface in a forward."""
    callers: set[nn.Module] = set()

    def note(call: AttentionCall) -> None:
        callers.add(call.module)

    with replaying(note):
        model(**vision_inputs.few_words(model), use_cache=False)
    return callers
