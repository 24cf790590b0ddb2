"""What a model is, in 64 letters; and its weights wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .quantized import is_opened, weight_of


def weights_fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes, dtypes and bytes of all parameters and buffers that are saved.

    Tied weights are hashed once per name, so that the order of registration decides and nothing else.
    """
    digest = hashlib.sha256()
    for name, tensor in weights_of(model):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_state(model: nn.Module) -> tuple[object, ...]:
    """What differs once weights have changed, for the price of reading them: a sixth of their hash.

    Version counters miss what is written through `.data`; the sum of all bits does not. Of offloaded weights neither
    is known. What a packed layer writes anew for every dictionary has no lasting place.
    """
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    lasting = {name for name, _ in named}
    return tuple((name, *_state(tensor, name in lasting)) for name, tensor in model.state_dict().items())


def _state(tensor: Tensor, lasting: bool) -> tuple[object, ...]:
    if tensor.is_meta:
        return tensor.shape, tensor.dtype
    place = tensor.data_ptr() if lasting else 0
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.shape, tensor.dtype, place, version, _sum_of_bits(tensor.detach().reshape(-1))


def _sum_of_bits(flat: Tensor) -> float:
    """Eight bytes at a time, wrapping; of a tensor that does not divide so, the sum of its numbers."""
    divides = all(count * flat.element_size() % 8 == 0 for count in (flat.numel(), flat.storage_offset()))
    return int(flat.view(torch.int64).sum()) if divides else float(flat.cpu().double().sum())


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All saved parameters and buffers by name; those that accelerate keeps elsewhere are fetched one by one."""
    for name, tensor in sorted(model.state_dict().items()):
        path, _, leaf = name.rpartition(".")
        yield name, fetched(model.get_submodule(path), leaf) if tensor.is_meta else tensor


def fetched(module: nn.Module, name: str = "weight") -> Tensor:
    """A module's own parameter, also where accelerate offloaded it to the CPU or to disk, or bitsandbytes packed it."""
    if name == "weight" and is_opened(module):
        return weight_of(module)
    if not getattr(module, name).is_meta:
        return getattr(module, name)
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return getattr(module, name).detach().clone()


def execution_device(module: nn.Module) -> torch.device | None:
    """Where accelerate runs a module, None where it does not say."""
    hook = getattr(module, "_hf_hook", None)
    found = (getattr(one, "execution_device", None) for one in getattr(hook, "hooks", (hook,)))
    device = next((one for one in found if one is not None), None)
    return None if device is None else torch.device(device)
