"""Models whose layers have mixers of several kinds: which of them are attention is told by who calls the interface."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from torch import nn

from . import anatomy

if TYPE_CHECKING:
    from .stack import Stack


def tell_attention(layers: list[nn.Module]) -> None:
    """Notes which mixers with an attention's name are none, where mixers differ: those that did not call the attention
    interface in the first forward.
    """
    mixers = [anatomy.mixer_of(layer) for layer in layers]
    if len({type(mixer) for mixer in mixers}) == 1 or not any(mixer in anatomy.HEADS for mixer in mixers):
        return
    for mixer in mixers:
        if mixer in anatomy.HEADS:
            anatomy.SILENT.discard(mixer)
        else:
            anatomy.SILENT.add(mixer)


def runs_whole(layer: nn.Module) -> bool:
    """Whether a layer mixes positions otherwise than by an attention alone: in its place, or beside it (Falcon H1).

    Such a layer has a state of all earlier rows, so it cannot be computed on some of its rows.
    """
    return not anatomy.attends(layer) or any(getattr(layer, name, None) is not None for name in anatomy.MIXERS)


def without_heads(stack: Stack) -> str:
    """What a reader must know of the layers without attention, in one sentence; "" where all have it."""
    bare = [i for i in range(stack.n_layers) if i not in stack.attending]
    kinds = sorted({type(anatomy.mixer_of(stack.layers[i])).__name__ for i in bare})
    if not bare:
        return ""
    return (
        f"{named(bare)} of {stack.n_layers} have no attention but {' or '.join(kinds)}, so no heads and no pattern: "
        "what is of heads has no value there, and is chosen, averaged and compared among the other layers alone; where "
        "attention is cut, these layers still carry what they read."
    )


def on_all_rows(stack: Stack) -> str:
    """Which layers a replay runs on all rows, and why; "" where none."""
    whole = [i for i, layer in enumerate(stack.layers) if runs_whole(layer)]
    return f"{named(whole)} mix positions without a pattern, so sweeps run them on all rows" if whole else ""


def named(layers: Iterable[int]) -> str:
    """Layers in words: "layer 3", "layers 0–2, 4"."""
    layers = sorted(layers)
    runs = [[i for _, i in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    return f"layer{'s' * (len(layers) > 1)} {', '.join(parts)}"
