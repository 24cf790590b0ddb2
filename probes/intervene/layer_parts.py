"""What running one layer of a model by itself takes: its arguments at some rows, its queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..model import anatomy
from ..model.attention import AttentionCall, replaying
from .interventions import QKV
from .positions import Positions
from .recording import MASK, PER_POSITION, Recording, is_mask


def with_changed_qkv(
    call: AttentionCall, changes: Sequence[tuple[int, Any]], b: int, apply: Callable[[Any, Tensor], Tensor]
) -> AttentionCall:
    """The call [r·b, ...] with what some heads of some rows read; keys and values by query head where need be."""
    groups = 1 if all(c.site == QKV["q"] for _, c in changes) else call.query.shape[1] // call.key.shape[1]
    query, key, value = call.query.clone(), *(t.repeat_interleave(groups, 1) for t in (call.key, call.value))
    tensors = {QKV["q"]: query, QKV["k"]: key, QKV["v"]: value}
    for row, change in changes:
        tensor = tensors[change.site].unflatten(0, (-1, b))[row].transpose(1, 2)
        tensor.copy_(apply(change, tensor))
    return call.edited(query=query, key=key, value=value)


def arguments_at(recording: Recording, where: Positions, recorded: Mapping[str, Any], n: int) -> dict[str, Any]:
    """A recorded call's arguments at the rows, once for each of `n` variants."""

    def at_rows(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(at_rows(one) for one in value)
        if value.ndim > 2 and value.shape[1:3] == recording.mask.shape and value.shape[:2] != recording.mask.shape:
            return torch.stack([at_rows(axis) for axis in value])  # time, height and width before the batch
        taken = where.take(value)
        return taken.repeat(n, *[1] * (taken.ndim - 1))

    arguments = dict(recorded) | {MASK: None}
    for name in PER_POSITION:
        if recorded.get(name) is not None:
            arguments[name] = at_rows(recorded[name])
    if anatomy.counts_from_cache(recording.subject.layers):
        arguments["past_key_values"] = _cache_of_length(int(where.index[0, 0]))
    return arguments


def arguments_of_all(recording: Recording, recorded: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The same of all rows, with the masks that keep padding out of a mixer's state."""
    b = len(recording.mask)
    masks = {name: value for name, value in recorded.items() if is_mask(name) and isinstance(value, Tensor)}
    whole = {name: mask.expand(b, *mask.shape[1:]).repeat(n, *[1] * (mask.ndim - 1)) for name, mask in masks.items()}
    return arguments_at(recording, recording.everywhere, recorded, n) | whole


def _cache_of_length(length: int) -> Any:
    """What a layer may ask of a cache that holds the positions before the rows and keeps nothing."""
    return SimpleNamespace(
        get_seq_length=lambda *_: length, update=lambda key, value, *_: (key, value), is_compileable=False
    )


class _Enough(Exception):
    """A layer is left as soon as its queries, keys and values are known."""


def reading(layer: nn.Module, arguments: dict[str, Any]) -> AttentionCall:
    """A block's queries, keys and values, without the rest of it."""
    calls: list[AttentionCall] = []

    def attend(call: AttentionCall) -> Tensor:
        calls.append(call)
        raise _Enough

    try:
        with replaying(attend):
            layer(**arguments)
    except _Enough:
        pass
    return calls[0]


@contextmanager
def instead_of(module: nn.Module, output: Tensor) -> Iterator[None]:
    """For a while, an attention module returns `output`."""
    before = module.__dict__.get("forward")

    def instead(*_: Any, **__: Any) -> tuple[Tensor, None]:
        return output, None

    module.forward = instead
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
