"""A second device without a GPU: tensors that say they lie elsewhere, and operations that refuse to mix devices.

They call themselves "meta", which PyTorch knows without a driver, but hold their numbers.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
MOVES = ("aten::copy_", "aten::_to_copy")
# What makes the program wait until the other device has computed everything so far: its numbers are asked for.
ASKS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2")
# How often it waited, by operation; emptied by whoever counts.
WAITS: Counter[str] = Counter()


class Elsewhere(Tensor):
    """A tensor on the other device; `inner` holds its numbers."""

    inner: Tensor
    is_meta = False  # what it calls itself, but its numbers are there

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        kind = {"dtype": inner.dtype, "device": ELSEWHERE, "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), **kind)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _on_devices(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inner})"

    def tolist(self) -> Any:
        WAITS["tolist"] += 1
        return self.inner.tolist()


class TwoDevices(TorchDispatchMode):
    """Meanwhile tensors may be made and moved elsewhere. RuntimeError: an operation on tensors of both devices."""

    def __enter__(self) -> TwoDevices:
        self.making = _Making()
        self.making.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.making.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _on_devices(func, args, kwargs or {})


class _Making(TorchFunctionMode):
    """`torch.tensor(…, device=ELSEWHERE)` and its like, and lists as indices, are no operations that a mode below sees:
    their numbers would be lost.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device) == ELSEWHERE:
            return func(*args, **kwargs | {"device": "cpu"}).to(ELSEWHERE)
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(args[1], dtype=args[0].dtype).to(ELSEWHERE)
        if func is Tensor.__getitem__ and isinstance(args[1], tuple):
            args = args[0], tuple(torch.tensor(one) if isinstance(one, list) else one for one in args[1])
        return func(*args, **kwargs)


def _on_devices(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    devices = set()

    def inner(value: Any) -> Any:
        assert not (isinstance(value, Tensor) and value.is_meta), "made elsewhere without its numbers"
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
    if _waits(name, args, kwargs, devices, there):
        WAITS[name] += 1
    out = func(*own_args, **own)
    if name.startswith("aten::copy_"):
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if there and isinstance(x, Tensor) else x, out)


def _waits(name: str, args: Any, kwargs: Any, devices: set[torch.device], there: bool) -> bool:
    """Whether the program stands still: it asks for numbers that lie elsewhere, or moves some between the devices."""
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    elsewhere = any(isinstance(value, Elsewhere) for value in given)
    if name.startswith("aten::index"):  # by a mask, whose true places are counted first, or by numbers brought there
        return elsewhere and (any(value.dtype == torch.bool for value in given[1:]) or len(devices) > 1)
    if name.startswith(MOVES):
        return len(devices) > 1 or (bool(devices) and there != elsewhere)
    return elsewhere and name.startswith(ASKS)


def move_whole(module: nn.Module) -> nn.Module:
    """The module with all its weights elsewhere, as it is loaded onto a GPU."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    wide = Elsewhere(tensor.detach())
                    own = nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide
                    tensors[name] = own
    return module


def move(module: nn.Module) -> nn.Module:
    """The module with its weights elsewhere; like accelerate's hooks its `forward` fetches what it is given."""
    return fetching(move_whole(module), ELSEWHERE)


def fetching(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with a `forward` that brings its arguments to its device."""
    forward = module.forward

    def moved(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, (args, kwargs))
        return forward(*args, **kwargs)

    module.forward = moved
    return module
