"""Watching and changing a model's forwards, layer by layer.

Each layer's tensors are alive while its observers are called, then gone. What acts is kept by model, not by thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from threading import get_ident
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...data.errors import UserError
from ..model import anatomy
from ..model.attention import ACTING, AttentionCall, Edit, is_replaying
from ..model.edits import OPEN, Block, Rewrite

if TYPE_CHECKING:
    from ..model.subject import Subject

# Sites that a rewrite, a patch or an ablation may change.
WRITABLE = ("z", "resid_pre", "attn_out", "mlp_out")


class Layer:
    """One layer's tensors during the forward. Names follow TransformerLens, shapes are [b, p, ...].

    resid_pre, resid_post: the residual stream entering and leaving. attn_out, mlp_out: what is added to it.
    z: [b, p, h, d_head]. rot_q: [b, p, h, d_head], rot_k and v: [b, p, kv, d_head], as the attention reads them.
    arguments: what the block was called with, by name.
    """

    resid_pre: Tensor
    resid_post: Tensor
    arguments: dict[str, Any]

    def __init__(self, subject: Subject, index: int) -> None:
        self.subject, self.index = subject, index
        self.call: AttentionCall | None = None
        self._z: Tensor | None = None
        self._raw: dict[str, Tensor] = {}

    @property
    def attention(self) -> AttentionCall:
        """The call of the attention function; SubjectError where this layer did not go through it."""
        if self.call is None:
            raise anatomy.SubjectError(
                f"{self.subject.family}: layer {self.index} does not call the attention interface of transformers, "
                "so its heads cannot be read; this family is not supported"
            )
        return self.call

    @property
    def z(self) -> Float[Tensor, "b p h d"]:
        return self._z if self._z is not None else self.attention.output()

    @property
    def rot_q(self) -> Float[Tensor, "b p h d"]:
        return self.attention.query.transpose(1, 2)

    @property
    def rot_k(self) -> Float[Tensor, "b p kv d"]:
        return self.attention.key.transpose(1, 2)

    @property
    def v(self) -> Float[Tensor, "b p kv d"]:
        return self.attention.value.transpose(1, 2)

    @property
    def q(self) -> Float[Tensor, "b p h d"]:
        return self._projected("q_proj", self.subject.n_heads)

    @property
    def k(self) -> Float[Tensor, "b p kv d"]:
        return self._projected("k_proj", self.attention.key.shape[1])

    @property
    def attn_out(self) -> Float[Tensor, "b p d"]:
        return self._added("attn_out")

    @property
    def mlp_out(self) -> Float[Tensor, "b p d"]:
        return self._added("mlp_out")

    @property
    def resid_mid(self) -> Float[Tensor, "b p d"]:
        """The residual between attention and MLP; KeyError in parallel blocks, which have none."""
        if anatomy.is_parallel(self.subject.layers[self.index]):
            raise KeyError(f"{self.subject.family} adds attention and MLP in parallel: there is no resid_mid")
        return self.resid_pre + self.attn_out

    def pattern(self, rows: Int[Tensor, "b n"] | None = None) -> Float[Tensor, "b h n k"]:
        """Attention after the softmax, all query rows or those of `rows`; float32."""
        return self.attention.pattern(rows)

    def written(self, name: str) -> Float[Tensor, "b p d"]:
        """What the module behind attn_out or mlp_out returns; the residual gets it times `anatomy.multiplier`."""
        return self._raw[name].reshape(self.resid_pre.shape)

    def _added(self, name: str) -> Tensor:
        scale = anatomy.multiplier(self.subject.layers[self.index])
        return self.written(name) if scale == 1.0 else self.written(name) * scale

    def _projected(self, name: str, heads: int) -> Tensor:
        if name not in self._raw:
            raise KeyError(
                f"{self.subject.family} has no separate {name}: its projections are fused; read rot_q or rot_k"
            )
        raw = self._raw[name]
        return raw.reshape(*raw.shape[:2], heads, -1)


@contextmanager
def tracing(
    subject: Subject,
    on_layer: Callable[[Layer], Any] | None = None,
    edits: Mapping[int, Edit] | None = None,
    rewrites: Mapping[tuple[int, str], Rewrite] | None = None,
) -> Iterator[None]:
    """During the block every forward of `subject` calls `on_layer(layer)` as each layer ends, in whatever thread.

    edits: layer -> function from its AttentionCall to the one that is computed instead.
    rewrites: (layer, site) -> function from the site's tensor to the one that is used instead; sites are those of
    WRITABLE, attn_out and mlp_out before the family's multiplier (`Layer.written`).
    Blocks may be nested: edits and rewrites act from the outermost block to the innermost, each on what the one before
    left; then observers, the innermost first, see what is used. UserError: a layer or a site that does not exist.
    """
    block = Block(on_layer, dict(edits or {}), dict(rewrites or {}))
    _require_places(subject, block)
    hooks = _HOOKS.setdefault(subject.model, _Hooks(subject))
    hooks.push(block)
    try:
        yield
    finally:
        hooks.pull(block)


def require_writable(site: str, what: str = "rewrite") -> None:
    """UserError for a site that cannot be changed, with those that can."""
    if site not in WRITABLE:
        raise UserError(f"cannot {what} {site!r}: one of {', '.join(WRITABLE)}")


def _require_places(subject: Subject, block: Block) -> None:
    for _, site in block.rewrites:
        require_writable(site)
    for layer in (*block.edits, *(layer for layer, _ in block.rewrites)):
        if layer not in range(subject.n_layers):
            raise UserError(f"no layer {layer!r} to edit: {subject.name} has 0…{subject.n_layers - 1}")


_HOOKS: dict[nn.Module, _Hooks] = {}


class _Hooks:
    """The open blocks of one model, outermost first, and the hooks through which they act while there are any."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.handles: list[RemovableHandle] = []
        self.running: dict[tuple[int, int], Layer] = {}  # by thread and index

    @property
    def blocks(self) -> tuple[Block, ...]:
        return OPEN.get(self.subject.model, ())

    def push(self, block: Block) -> None:
        if not self.blocks:
            for i, layer in enumerate(self.subject.layers):
                ACTING[anatomy.attention_of(layer)] = partial(self._attend, i)
        OPEN[self.subject.model] = (*self.blocks, block)
        if block.hooked and not self.handles:
            for i, layer in enumerate(self.subject.layers):
                self._hook(i, layer)

    def pull(self, block: Block) -> None:
        OPEN[self.subject.model] = tuple(one for one in self.blocks if one is not block)
        if not any(one.hooked for one in self.blocks):
            while self.handles:
                self.handles.pop().remove()
            self.running.clear()
        if not self.blocks:
            for layer in self.subject.layers:
                ACTING.pop(anatomy.attention_of(layer), None)
            _HOOKS.pop(self.subject.model, None)
            OPEN.pop(self.subject.model, None)

    def _hook(self, index: int, layer: nn.Module) -> None:
        self.handles += [
            layer.register_forward_pre_hook(partial(self._begin, index), with_kwargs=True),
            anatomy.attention_writer(layer).register_forward_hook(partial(self._written, index, "attn_out")),
            anatomy.feed_forward_writer(layer).register_forward_hook(partial(self._written, index, "mlp_out")),
            layer.register_forward_hook(partial(self._end, index)),
        ]
        for name in ("q_proj", "k_proj"):
            if (module := getattr(anatomy.attention_of(layer), name, None)) is not None:
                self.handles.append(module.register_forward_hook(partial(self._written, index, name)))

    def _rewritten(self, index: int, site: str, tensor: Tensor) -> Tensor:
        for block in self.blocks:
            if (change := block.rewrites.get((index, site))) is not None:
                tensor = change(tensor)
        return tensor

    def _begin(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_replaying():
            return None
        change = partial(self._rewritten, index, "resid_pre")
        if args:
            args = (change(args[0]), *args[1:])
        else:
            kwargs = kwargs | {"hidden_states": change(kwargs["hidden_states"])}
        if any(block.on_layer is not None for block in self.blocks):
            self.running[get_ident(), index] = layer = Layer(self.subject, index)
            layer.arguments = by_name(module, args, kwargs)
            layer.resid_pre = layer.arguments["hidden_states"]
        return args, kwargs

    def _attend(self, index: int, call: AttentionCall) -> Tensor:
        for block in self.blocks:
            call = block.edits.get(index, _same)(call)
        z = self._rewritten(index, "z", call.output())
        if (layer := self.running.get((get_ident(), index))) is not None:
            layer.call, layer._z = call, z
        return z

    def _written(self, index: int, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        if is_replaying():
            return None
        tensor = first(output)
        changed = self._rewritten(index, name, tensor)
        if (layer := self.running.get((get_ident(), index))) is not None:
            layer._raw[name] = changed
        return None if changed is tensor else _with_first(output, changed)

    def _end(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        layer = None if is_replaying() else self.running.pop((get_ident(), index), None)
        if layer is None:
            return
        layer.resid_post = first(output)
        # With layers on several devices the input still lies where the layer before it is.
        layer.resid_pre = layer.resid_pre.to(layer.resid_post.device)
        for block in reversed(self.blocks):
            if block.on_layer is not None:
                block.on_layer(layer)


def _same(call: AttentionCall) -> AttentionCall:
    return call


def rewrite_output(stack: ExitStack, layer: nn.Module, site: str, change: Rewrite) -> None:
    """Until `stack` closes, `change` acts on "attn_out" or "mlp_out" of one layer that is replayed."""
    writer = anatomy.attention_writer if site == "attn_out" else anatomy.feed_forward_writer

    def leaving(module: nn.Module, args: Any, output: Any) -> Any:
        return _with_first(output, change(first(output)))

    stack.callback(writer(layer).register_forward_hook(leaving).remove)


def first(output: Any) -> Tensor:
    """The tensor of a module's output, which some families wrap into a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, changed: Tensor) -> Any:
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by the names of the block's own `forward`."""
    names = [name for name in signature(type(module).forward).parameters if name != "self"]
    return dict(zip(names, args, strict=False)) | kwargs
