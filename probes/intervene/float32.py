"""A half-precision subject run in float32, one layer at a time: what its wiring is proved on, whatever its dtype."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..model import anatomy
from ..model.head import find_head
from ..observe.layer import Layer
from ..observe.tracing import tracing
from .recording import Recording, record

if TYPE_CHECKING:
    from ..model.subject import Subject

_MASK = "attention_mask"


@contextmanager
def in_float32(subject: Subject, *, head: bool = False) -> Iterator[None]:
    """Meanwhile layers, final norm and (`head`) unembedding compute in float32, with the weights that they have.

    A layer's weights are widened as it begins and are the old ones again as it ends, so one layer's copy is held.
    Rotations are computed in float32 too; embeddings and a vision tower stay as they are. Nothing changes for a float32
    or float64 subject.
    """
    if not is_half(subject):
        yield
        return
    with ExitStack() as stack:
        for module in _between(subject):
            stack.enter_context(_widened(module, deep=False))
            stack.callback(module.register_forward_pre_hook(_widening, with_kwargs=True).remove)
        unembedding = find_head(subject.model)
        if head:
            stack.enter_context(_widened(unembedding))
        else:
            stack.callback(unembedding.register_forward_pre_hook(_narrowing).remove)
        for layer in subject.layers:
            _widen_while_it_runs(stack, layer)
            if anatomy.attends(layer):
                _widen_while_it_runs(stack, anatomy.output_projection(layer))  # called alone in path patching
        yield


def is_half(subject: Subject) -> bool:
    """Whether the subject computes in less than float32."""
    return torch.finfo(subject.dtype).bits < 32


def widen(value: Any) -> Any:
    """float32 in place of half precision, in tuples too; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(widen, value))
    half = isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < 4
    return value.float() if half else value


def recorded_again(base: Recording, sites: Collection[str] = ()) -> Recording:
    """The same inputs recorded `in_float32`; the recording itself where it is of no half-precision subject."""
    return record(base.subject, base.inputs, sites) if is_half(base.subject) else base


def with_wide_layer(base: Recording, index: int) -> Recording:
    """The same recording with one layer computed again, `in_float32`, from what entered it."""
    narrow, layers = base.layers[index], list(base.layers)

    def keep(layer: Layer) -> None:
        sites = {site: layer.written(site) for site in narrow.sites}
        read = {"key": layer.attention.key, "value": layer.attention.value} if layer.attends else {}
        tensors = {"resid_pre": layer.resid_pre, "added": widen(narrow.added), **read}
        layers[index] = replace(narrow, **tensors, arguments=layer.arguments, sites=sites)

    if is_half(base.subject):
        with tracing(base.subject, keep):
            base.subject.layers[index](**narrow.arguments)
    return replace(base, layers=layers)


def _wide_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: _wide_mask(value) if name == _MASK else widen(value) for name, value in arguments.items()}


def _wide_mask(mask: Any) -> Any:
    """A mask's lowest value means "not seen", in its own dtype alone."""
    wide = widen(mask)
    unseen = None if wide is mask else mask == torch.finfo(mask.dtype).min
    return mask if unseen is None else wide.masked_fill(unseen, torch.finfo(wide.dtype).min)


def _between(subject: Subject) -> list[nn.Module]:
    """The decoder's modules beside layers and embeddings: final norm, rotations, a few families' projections."""
    decoder = anatomy.find_decoder(subject.model)
    inside = {id(module) for layer in subject.layers for module in layer.modules()}
    return [m for m in decoder.modules() if id(m) not in {*inside, id(decoder)} and not isinstance(m, nn.Embedding)]


def _widening(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return widen(args), _wide_arguments(kwargs)


def _narrowing(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0].to(module.weight.dtype), *args[1:])


def _widen_while_it_runs(stack: ExitStack, layer: nn.Module) -> None:
    running: list[ExitStack] = []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        running.append(ExitStack())
        running[-1].enter_context(_widened(module))
        return widen(args), _wide_arguments(kwargs)

    def end(*_: Any) -> None:
        running.pop().close()

    stack.callback(layer.register_forward_pre_hook(begin, with_kwargs=True).remove)
    stack.callback(layer.register_forward_hook(end, always_call=True).remove)


@contextmanager
def _widened(module: nn.Module, *, deep: bool = True) -> Iterator[None]:
    """The module with float32 weights; its own objects, shared or not, are put back untouched."""
    changes: list[tuple[dict[str, Any], str, Any]] = []
    for part in module.modules() if deep else [module]:
        for tensors in (part._parameters, part._buffers):
            changes += [(tensors, name, tensor) for name, tensor in tensors.items() if widen(tensor) is not tensor]
    try:
        for tensors, name, tensor in changes:
            wide = widen(tensor.detach())
            tensors[name] = nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide
        yield
    finally:
        for tensors, name, tensor in changes:
            tensors[name] = tensor
