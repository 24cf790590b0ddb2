"""A second device without a GPU: tensors that say they lie elsewhere, and operations that refuse to mix devices.

They call themselves "meta", which PyTorch knows without a driver, but hold their numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

ELSEWHERE = torch.device("meta")
MOVES = ("aten::copy_", "aten::_to_copy")


class Elsewhere(Tensor):
    """A tensor on the other device; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        kind = {"dtype": inner.dtype, "device": ELSEWHERE, "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), **kind)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _on_devices(func, args, kwargs or {})


class TwoDevices(TorchDispatchMode):
    """Meanwhile tensors may be made and moved elsewhere. RuntimeError: an operation on tensors of both devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _on_devices(func, args, kwargs or {})


def _on_devices(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    devices = set()

    def inner(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim:
            devices.add(value.device)
        return value.inner if isinstance(value, Elsewhere) else value

    own_args, own = tree_map(inner, args), tree_map(inner, kwargs)
    name, asked = func.name(), own.get("device")
    single = any(isinstance(value, Elsewhere) for value in args)
    if len(devices) > 1 and not name.startswith((*MOVES, "aten::index")):
        raise RuntimeError(f"{name}: tensors on {' and '.join(sorted(map(str, devices)))}")
    if asked is not None:
        own["device"] = torch.device("cpu")
    there = torch.device(asked) == ELSEWHERE if asked is not None else ELSEWHERE in devices or single
    out = func(*own_args, **own)
    if name.startswith("aten::copy_"):
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if there and isinstance(x, Tensor) else x, out)


def move(module: nn.Module) -> nn.Module:
    """The module with its weights elsewhere; like accelerate's hooks its `forward` fetches what it is given."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    wide = Elsewhere(tensor.detach())
                    tensors[name] = (
                        nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide
                    )
    return fetching(module, ELSEWHERE)


def fetching(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with a `forward` that brings its arguments to its device."""
    forward = module.forward

    def moved(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, (args, kwargs))
        return forward(*args, **kwargs)

    module.forward = moved
    return module
