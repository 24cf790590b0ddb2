"""What a block adds to the residual stream, told by structure.

With the outputs of its children held as they are, a block only scales and adds. So its derivative says which children's
outputs it adds up, and times what: post-norms, multipliers, several writers of one part, a third addend, a factor on
all of it. `check` proves it on other inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...data.errors import SubjectError
from . import anatomy
from .attention import replaying
from .head import NEAR
from .residual_parts import TOLD, Gain, Part, Parts

# Children that are part of the sum: they change nothing outside of training.
TRANSPARENT = (nn.Dropout, nn.Identity)


class _NoSum(Exception):
    """A block that is no sum of its children's outputs with fixed factors."""


def tell_parts(layers: Sequence[nn.Module], run: Callable[[], Any]) -> None:
    """Notes the parts of each layer whose named modules are not what it adds, in the forward that `run` makes.

    SubjectError: layers that keep several residual streams.
    """
    watched = [_Block(layer) for layer in layers]
    with ExitStack() as hooks:
        for block in watched:
            for handle in block.hooks():
                hooks.callback(handle.remove)
        run()
    for index, block in enumerate(watched):
        TOLD.pop(block.layer, None)
        if block.streams > 1:
            raise SubjectError(
                f"layer {index} keeps {block.streams} residual streams side by side, and what a part adds to which of "
                "them is not read"
            )
        if block.parts is not None and not _as_named(block.layer, block.parts):
            TOLD[block.layer] = block.parts


class _Call(NamedTuple):
    """A child's call: what it read, with its graph, and what it wrote, held."""

    module: nn.Module
    read: list[Tensor]
    written: Tensor


@dataclass(eq=False)
class _Block:
    """One layer while it is watched. streams: of its residual. parts: None where it is no sum that is understood."""

    layer: nn.Module
    entering: Tensor = field(default_factory=lambda: torch.zeros(0))
    dtype: torch.dtype = torch.float32
    reading: list[Tensor] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    pointwise: list[nn.Module] = field(default_factory=list)
    streams: int = 1
    parts: Parts | None = None

    def hooks(self) -> Iterator[Any]:
        yield self.layer.register_forward_pre_hook(self.begin, with_kwargs=True)
        yield self.layer.register_forward_hook(self.end, prepend=True)
        for child in _held(self.layer):
            yield child.register_forward_pre_hook(self.read, with_kwargs=True)
            yield child.register_forward_hook(self.write, prepend=True, with_kwargs=True)

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        self.dtype, self.entering = given.dtype, _leaf(given)
        self.streams = 1 if given.ndim < 4 else given.shape[0] if given.shape[0] != 1 else given.shape[2]
        torch.set_grad_enabled(True)
        entering = self.entering.clone()
        return ((entering, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": entering})

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        torch.set_grad_enabled(False)
        self.reading = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.requires_grad]
        return tuple(map(self.narrow, args)), {name: self.narrow(value) for name, value in kwargs.items()}

    def narrow(self, value: Any) -> Any:
        """A tensor of the graph as the layer's modules take it."""
        return value.detach().to(self.dtype) if isinstance(value, Tensor) and value.requires_grad else value

    def write(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        tensor, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        if module is getattr(self.layer, anatomy.ANY_MIXER, None) and not _mixes(module, args, kwargs, tensor):
            self.pointwise.append(module)
        self.calls.append(_Call(module, self.reading, _leaf(tensor)))
        torch.set_grad_enabled(True)
        held = self.calls[-1].written.clone()
        return held if rest is None else (held, *rest)

    def end(self, module: nn.Module, args: Any, output: Any) -> Any:
        tensor, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        try:
            self.parts = _parts(self, tensor)
        except _NoSum:
            self.parts = None
        torch.set_grad_enabled(False)
        self.calls.clear()
        return self.narrow(tensor) if rest is None else (self.narrow(tensor), *rest)


def _mixes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], written: Tensor) -> bool:
    """Whether a module's last row depends on its first one: an MLP's does not."""
    read = args[0] if args else kwargs["hidden_states"]
    other = torch.cat([read[:, :1] + 1, read[:, 1:]], 1)
    args, kwargs = ((other, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": other})
    with replaying():  # as a call that nobody counts
        again = module.forward(*args, **kwargs)
    return not _near((again[0] if isinstance(again, tuple) else again)[:, -1], written[:, -1])


def _held(layer: nn.Module) -> Iterator[nn.Module]:
    for child in layer.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _held(child)
        elif not isinstance(child, TRANSPARENT):
            yield child


def _leaf(tensor: Tensor) -> Tensor:
    """The tensor as a leaf of the graph, in float32 at least: a factor of half precision is a rounded one."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).requires_grad_()


def _parts(block: _Block, leaving: Tensor) -> Parts:
    """The parts of a watched block. _NoSum: it does not only scale and add, or adds up something else."""
    leaves = [block.entering, *(call.written for call in block.calls)]
    at_end = _slopes(leaving, leaves)
    if at_end[0] is None or not _near(leaving, _sum(leaves, at_end, leaving)):
        raise _NoSum
    kinds = _kinds(block, leaves, [i for i, slope in enumerate(at_end) if i and slope is not None])
    mixed = [i for i, kind in kinds.items() if kind == "attn_out"]
    at_mid, reader = _mid(block, leaves, mixed)
    past_mid = at_end[0] / at_mid[0] if reader else torch.ones(1)
    if reader and not all(_near(at_end[i], at_mid[i] * past_mid) for i in mixed):
        raise _NoSum
    gains = {i: at_mid[i] if reader and i in mixed else at_end[i] for i in kinds}

    def part(name: str) -> Part:
        own = [i for i, kind in kinds.items() if kind == name]
        return Part(tuple(block.calls[i - 1].module for i in own), tuple(_plain(gains[i]) for i in own))

    into_mid = at_mid[0] if reader else at_end[0]
    return Parts(part("attn_out"), part("mlp_out"), part("beside_out"), _plain(into_mid), _plain(past_mid), reader)


def _slopes(output: Tensor, leaves: list[Tensor]) -> list[Any]:
    """What each leaf is multiplied with in `output`, [d], or None. _NoSum: it is not the same at every position."""
    found = torch.autograd.grad(output.sum(), leaves, retain_graph=True, allow_unused=True)
    return [None if slope is None or not bool(slope.any()) else _row(slope, output) for slope in found]


def _row(slope: Tensor, output: Tensor) -> Tensor:
    if slope.numel() != output.numel():
        raise _NoSum
    rows = slope.reshape(-1, output.shape[-1])
    if not _near(rows, rows[:1].expand_as(rows)):
        raise _NoSum
    return rows[0]


def _sum(leaves: list[Tensor], slopes: list[Any], like: Tensor) -> Tensor:
    pairs = [(leaf, slope) for leaf, slope in zip(leaves, slopes, strict=True) if slope is not None]
    return torch.stack([leaf.reshape(like.shape) * slope for leaf, slope in pairs]).sum(0)


def _kinds(block: _Block, leaves: list[Tensor], added: list[int]) -> dict[int, str]:
    """The part to which each added output belongs: to which of mixer and MLP it leads back, past no other addend."""
    reads = [set(), *(_reaches(call.read, leaves) for call in block.calls)]
    modules = [block.layer, *(call.module for call in block.calls)]
    known = {
        "mlp_out": [*anatomy.children_named(block.layer, anatomy.FEED_FORWARD), *block.pointwise],
        "attn_out": anatomy.children_named(block.layer, (*anatomy.ATTENTION, *anatomy.MIXERS)),
    }
    known["attn_out"] += [child for child in _held(block.layer) if any(m in anatomy.HEADS for m in child.modules())]
    other = "beside_out" if known["mlp_out"] else "mlp_out"
    kinds = {}
    for i in added:
        behind, waiting = {i}, [i]
        while waiting:
            new = reads[waiting.pop()] - behind - {0, *added}
            behind |= new
            waiting += new
        own = [modules[j] for j in behind]
        kinds[i] = next((name for name, found in known.items() if any(m in found for m in own)), other)
    return kinds


def _reaches(read: list[Tensor], leaves: list[Tensor]) -> set[int]:
    """Which leaves a child's inputs are made of."""
    if not read:
        return set()
    total = torch.stack([tensor.sum() for tensor in read]).sum()
    found = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    return {i for i, slope in enumerate(found) if slope is not None}


def _mid(block: _Block, leaves: list[Tensor], mixed: list[int]) -> tuple[list[Any], nn.Module | None]:
    """What the first child that reads the residual behind the mixers multiplies them with, and that child."""
    for call in block.calls if mixed else ():
        if _reaches(call.read[:1], leaves) >= {0, *mixed}:
            return _slopes(call.read[0], leaves), call.module
    return [], None


def _near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= NEAR * expected.abs().max())


def _plain(gain: Tensor) -> Gain:
    """One number where all features have the same."""
    return float(gain[0]) if bool((gain == gain[0]).all()) else gain.detach()


def _as_named(layer: nn.Module, parts: Parts) -> bool:
    """Whether the modules found by their names, and their factors, say the same."""
    try:
        named = {"attn_out": anatomy.attention_writer(layer), "mlp_out": anatomy.feed_forward_writer(layer)}
    except SubjectError:
        return False
    for name, module in named.items():
        writers, gains = getattr(parts, name)
        if writers != (module,) or not _near(torch.as_tensor(gains[0]), torch.as_tensor(anatomy.gain(layer, name))):
            return False
    carried = anatomy.is_one(parts.into_mid) and anatomy.is_one(parts.past_mid)
    return carried and not parts.beside_out.writers and (parts.mid_reader is None) == anatomy.is_parallel(layer)
