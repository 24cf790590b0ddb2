"""States layer by layer: each as it enters a layer, behind the last layer's own the one that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.observe.layer import Layer

LEFT = "left|"  # before the name of what is read of the state that leaves the last layer


def by_state(layer: Layer, read: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `read` gives of the state that enters the layer; of the last layer also of the one that leaves it."""
    found = read(layer.resid_pre)
    if layer.index == layer.stack.n_layers - 1:
        found |= {f"{LEFT}{name}": value for name, value in read(layer.resid_post).items()}
    return found


def states(kept: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """[b, states, d] of what `by_state` gave of every layer, the names that there are."""
    return {name: torch.cat([kept[name], kept[f"{LEFT}{name}"]], 1) for name in names if name in kept}


def mean_over(tensor: Float[Tensor, "b p d"], where: Bool[Tensor, "b p"]) -> Float[Tensor, "b d"]:
    """The mean state over some positions, float32; NaN for an example without any."""
    there = where.to(tensor.device)
    whole = torch.where(there[..., None], tensor.float(), 0.0).sum(1)
    return whole / there.sum(1, keepdim=True)
