"""Watching and changing a model's forwards, layer by layer, in its decoder or its vision tower.

Each layer's tensors are alive while its observers are called, then gone. What acts is kept by model, not by thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from threading import get_ident
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...data.errors import SubjectError, UserError
from ..model import anatomy
from ..model.attention import ACTING, NAME, AttentionCall, Edit, is_replaying
from ..model.edits import OPEN, Block, Rewrite
from ..model.stack import DECODER, VISION, Stack
from ..sites import PARTS, SITES, Site, require_writable, site
from .layer import Layer

if TYPE_CHECKING:
    from ..model.subject import Subject

# Sites that a hook of their own sees to; what enters the block is there before its layer begins.
_HOOKED = [row for row in SITES.values() if row.in_module and row.name != "resid_pre"]


@contextmanager
def tracing(
    subject: Subject,
    on_layer: Callable[[Layer], Any] | None = None,
    edits: Mapping[int, Edit] | None = None,
    rewrites: Mapping[tuple[int, str], Rewrite] | None = None,
    *,
    stack: str = DECODER,
) -> Iterator[None]:
    """During the block every forward of `subject` calls `on_layer(layer)` as each layer ends, in whatever thread.

    edits: layer -> function from its AttentionCall to the one that is computed instead.
    rewrites: (layer, site) -> function from the site's tensor [b, p, ...] to the one that is used instead; sites are
    those of WRITABLE, attn_out and mlp_out before the family's multiplier (`Layer.written`).
    stack: "decoder", "projector", or "vision" for the vision tower, whose attention goes through crosslens' meanwhile.
    Where a tower attends to one image or window after the other, edits, and rewrites of attn_z, act on each.
    Blocks may be nested: edits and rewrites act from the outermost block to the innermost, each on what the one before
    left; then observers, the innermost first, see what is used. UserError: a layer or a site that does not exist, or a
    subject without a vision tower.
    """
    layers = subject.stack(stack)
    block = Block(stack, on_layer, dict(edits or {}), dict(rewrites or {}))
    _require_places(subject, layers, block)
    hooks = _HOOKS.setdefault((subject.model, stack), _Hooks(subject, layers))
    hooks.push(block)
    try:
        yield
    except UserError:  # says all by itself
        raise
    except Exception as error:
        hooks.say_where(error)
        raise
    finally:
        hooks.pull(block)


def _require_places(subject: Subject, stack: Stack, block: Block) -> None:
    for _, name in block.rewrites:
        require_writable(name)
    for layer in (*block.edits, *(layer for layer, _ in block.rewrites)):
        if layer not in range(stack.n_layers):
            raise UserError(f"no layer {layer!r} to edit: {subject.name} has 0…{stack.n_layers - 1}")
    for layer, name in (*((layer, "pattern") for layer in block.edits), *block.rewrites):
        stack.require(layer, site(name))


_HOOKS: dict[tuple[nn.Module, str], _Hooks] = {}


class _Hooks:
    """The open blocks of one stack, outermost first, and the hooks through which they act while there are any."""

    def __init__(self, subject: Subject, stack: Stack) -> None:
        self.subject, self.stack = subject, stack
        self.implementation = stack.config._attn_implementation
        self.handles: list[RemovableHandle] = []
        self.blocks: tuple[Block, ...] = ()
        self.running: dict[tuple[int, int], Layer] = {}  # by thread and index

    def push(self, block: Block) -> None:
        if not self.blocks:
            self._take_attention()
        self.blocks = (*self.blocks, block)
        OPEN[self.subject.model] = (*OPEN.get(self.subject.model, ()), block)
        if block.hooked and not self.handles:
            for i, layer in enumerate(self.stack.layers):
                self._hook(i, layer)

    def pull(self, block: Block) -> None:
        self.blocks = tuple(one for one in self.blocks if one is not block)
        OPEN[self.subject.model] = tuple(one for one in OPEN[self.subject.model] if one is not block)
        if not OPEN[self.subject.model]:
            del OPEN[self.subject.model]
        if not any(one.hooked for one in self.blocks):
            while self.handles:
                self.handles.pop().remove()
            self.running.clear()
        if not self.blocks:
            self._give_attention_back()
            _HOOKS.pop((self.subject.model, self.stack.name), None)

    def say_where(self, error: Exception) -> None:
        """Notes the layer that was running, for `anatomy.first_line`."""
        running = [index for thread, index in self.running if thread == get_ident()]
        place = f"(in {self.stack.prefix}layer {max(running, default=0)})"
        if running and place not in getattr(error, "__notes__", ()):
            error.add_note(place)

    def _take_attention(self) -> None:
        for i in self.stack.attending:
            ACTING[anatomy.attention_of(self.stack.layers[i])] = partial(self._attend, i)
        if self.stack.name == VISION:
            self.stack.config._attn_implementation = NAME

    def _give_attention_back(self) -> None:
        for i in self.stack.attending:
            ACTING.pop(anatomy.attention_of(self.stack.layers[i]), None)
        if self.stack.name == VISION:
            self.stack.config._attn_implementation = self.implementation

    def _hook(self, index: int, layer: nn.Module) -> None:
        self.handles.append(layer.register_forward_pre_hook(partial(self._begin, index), with_kwargs=True))
        for row in _HOOKED:
            try:
                self.handles += _on_site(layer, row, partial(self._pass, index, row.name))
            except SubjectError:  # a site that this family lacks: refused by name when it is asked for
                continue
        self.handles.append(layer.register_forward_hook(partial(self._end, index)))

    def _rewritten(self, layer: Layer, name: str, tensor: Tensor) -> Tensor:
        """What the open blocks make of a site [b, p, ...], in the shape that the module gave it."""
        changes = [block.rewrites[layer.index, name] for block in self.blocks if (layer.index, name) in block.rewrites]
        if not changes:
            return tensor
        changed = layer.as_site(name, tensor)
        for change in changes:
            changed = change(changed)
        return changed.reshape(tensor.shape)

    def _begin(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_replaying():
            return None
        self.running[get_ident(), index] = layer = Layer(self.subject, self.stack, index)
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(signature(module.forward).parameters))
        entering = args[0] if args else kwargs[name]
        layer.resid_pre = _with_batch(entering)
        changed = self._rewritten(layer, "resid_pre", entering)
        args, kwargs = ((changed, *args[1:]), kwargs) if args else (args, kwargs | {name: changed})
        layer.resid_pre, layer._called = _with_batch(changed), (args, kwargs)
        return args, kwargs

    def _attend(self, index: int, call: AttentionCall) -> Tensor:
        for block in self.blocks:
            call = block.edits.get(index, _same)(call)
        z = call.output()
        for block in self.blocks:
            z = block.rewrites.get((index, "attn_z"), _same)(z)
        if (layer := self.running.get((get_ident(), index))) is not None:
            layer.calls.append(call)
            layer._attn_z.append(z)
        return z

    def _pass(self, index: int, name: str, tensor: Tensor) -> Tensor:
        """What a module of the layer reads or writes instead of `tensor`."""
        layer = None if is_replaying() else self.running.get((get_ident(), index))
        if layer is None:
            return tensor
        if name == "z":
            layer._read_by_W_O = tensor
        tensor = self._rewritten(layer, name, tensor)
        if name == "attn_out":
            tensor = self._through_mid(layer, tensor)
        layer._raw[name] = tensor
        return tensor

    def _through_mid(self, layer: Layer, written: Tensor) -> Tensor:
        """What the attention has to write for the residual behind it to be what rewrites of resid_mid make of it."""
        if not any((layer.index, "resid_mid") in block.rewrites for block in self.blocks):
            return written
        gain, own = anatomy.gain(layer.module, "attn_out"), layer.as_batch(written)
        gain = gain.to(own) if isinstance(gain, Tensor) else gain
        mid = anatomy.times(layer.resid_pre.to(own.device), anatomy.carries(layer.module)[0]) + own * gain
        moved = self._rewritten(layer, "resid_mid", mid) - mid
        return (own + moved / gain).reshape(written.shape)

    def _end(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        layer = None if is_replaying() else self.running.pop((get_ident(), index), None)
        if layer is None:
            return
        layer.resid_post = _with_batch(first(output))
        # With layers on several devices the input still lies where the layer before it is.
        layer.resid_pre = layer.resid_pre.to(layer.resid_post.device)
        for block in reversed(self.blocks):
            if block.on_layer is not None:
                block.on_layer(layer)


def _same(value: Any) -> Any:
    return value


def rewrite_output(stack: ExitStack, layer: nn.Module, name: str, change: Rewrite) -> None:
    """Until `stack` closes, `change` acts on a site in a module of one layer that is replayed, as the module gives it.

    name: attn_out, mlp_out, mlp_pre, mlp_pre_linear, mlp_post; resid_pre and resid_post are the block's own.
    """
    for handle in _on_site(layer, SITES[name], change):
        stack.callback(handle.remove)


def _on_site(layer: nn.Module, row: Site, change: Rewrite) -> list[RemovableHandle]:
    """`change` acts on a site in a module of the layer. SubjectError: the layer has no such module."""
    side, finder = row.reads
    module = getattr(anatomy, finder)(layer)
    earlier = anatomy.earlier_writers(layer, row.name) if row.name in PARTS else []
    if earlier:
        return _on_writers(earlier, module, change)
    # transformers keeps a tower's states by hooks on its blocks, which have to see what is used.
    return [_on_side(module, side, change, first_of_all=module is layer)]


def _on_writers(earlier: list[tuple[nn.Module, Any]], last: nn.Module, change: Rewrite) -> list[RemovableHandle]:
    """`change` acts on what several modules write together, in units of the last one, which gives the difference."""
    before: dict[int, Tensor] = {}  # by thread

    def note(share: Any, module: nn.Module, args: Any, output: Any) -> None:
        before[get_ident()] = before.get(get_ident(), 0) + first(output) * share

    def whole(own: Tensor) -> Tensor:
        others = before.pop(get_ident())
        together = own + others
        changed = change(together)
        # A gradient is asked of what they write together, so it has to lie on the way to the residual.
        return own if changed is together and not together.requires_grad else changed - others

    handles = [writer.register_forward_hook(partial(note, share)) for writer, share in earlier]
    return [*handles, _on_side(last, "output", whole)]


def _on_side(module: nn.Module, side: str, change: Rewrite, *, first_of_all: bool = False) -> RemovableHandle:
    """`change` acts on what a module reads ("input") or writes ("output"), before other hooks or behind them."""

    def entering(module: nn.Module, args: tuple[Any, ...]) -> Any:
        changed = change(args[0])
        return None if changed is args[0] else (changed, *args[1:])

    def leaving(module: nn.Module, args: Any, output: Any) -> Any:
        changed = change(first(output))
        return None if changed is first(output) else _with_first(output, changed)

    if side == "input":
        return module.register_forward_pre_hook(entering)
    return module.register_forward_hook(leaving, prepend=first_of_all)


def _with_batch(residual: Tensor) -> Tensor:
    """[1, n, d] of the patches that some towers pack into [n, d]."""
    return residual[None] if residual.ndim == 2 else residual


def first(output: Any) -> Tensor:
    """The tensor of a module's output, which some families wrap into a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, changed: Tensor) -> Any:
    return (changed, *output[1:]) if isinstance(output, tuple) else changed
