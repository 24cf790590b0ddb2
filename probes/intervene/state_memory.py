"""How much memory the layers take whose mixer is no attention: measured, since every kind has tensors of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..model import anatomy
from ..model.attention import replaying
from .layer_parts import arguments_of_all
from .recording import Recording

# Tensors as large as the largest that are alive at once: a state's decay, its input and their scan.
ALIVE = 4


def state_bytes(base: Recording) -> int:
    """What one variant keeps alive, in bytes, while a layer runs on all rows; 0 where no layer does.

    Measured once a subject, on one clean layer of each kind.
    """
    whole = {type(anatomy.mixer_of(base.subject.layers[i])): i for i, layer in enumerate(base.layers) if layer.whole}
    if not whole:
        return 0
    kept = base.subject.__dict__
    if "_state_bytes" not in kept:
        kept["_state_bytes"] = max(_largest(base, i) for i in whole.values()) / base.mask.numel()
    return int(ALIVE * kept["_state_bytes"] * base.mask.numel())


@torch.no_grad()
def _largest(base: Recording, index: int) -> int:
    """The bytes of the largest tensor that a clean layer makes."""
    layer, record = base.subject.layers[index], base.layers[index]
    sizes = _Sizes({weight.untyped_storage().data_ptr() for weight in layer.parameters()})
    with sizes, replaying():
        layer(**arguments_of_all(base, record.arguments, 1) | {"hidden_states": record.resid_pre})
    return sizes.largest


class _Sizes(TorchDispatchMode):
    """Notes the largest of all tensors that are made meanwhile, but of views of weights."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.largest = weights, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        storages = [leaf.untyped_storage() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.largest = max([self.largest, *(s.nbytes() for s in storages if s.data_ptr() not in self.weights)])
        return made
