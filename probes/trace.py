"""Watching one forward, layer by layer: each layer's tensors are alive while its observer is called, then gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from . import anatomy
from .attention import AttentionCall, Edit, edited, watched

if TYPE_CHECKING:
    from .subject import Subject

Rewrite = Callable[[Tensor], Tensor]


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
    """During the block every forward of `subject` calls `on_layer(layer)` as each layer ends.

    edits: layer -> function from its AttentionCall to the one that is computed instead; edits of a block around this
    one act before them.
    rewrites: (layer, site) -> function from the site's tensor to the one that is used instead; sites are resid_pre,
    z, attn_out and mlp_out (the last two before the family's multiplier: `Layer.written`).
    """
    rewrites = rewrites or {}
    current: dict[int, Layer] = {}
    index_of = {id(anatomy.attention_of(layer)): i for i, layer in enumerate(subject.layers)}

    def watch(call: AttentionCall) -> Tensor | None:
        index = index_of.get(id(call.module), -1)
        if index not in current and (index, "z") not in rewrites:
            return None
        z = rewrites.get((index, "z"), _same)(call.output())
        if index in current:
            current[index].call, current[index]._z = call, z
        return z

    def edit(call: AttentionCall) -> AttentionCall:
        own = (edits or {}).get(index_of.get(id(call.module), -1))
        return call if own is None else own(call)

    with ExitStack() as stack:
        # Before the observers, which then see what is used.
        for (index, site), change in rewrites.items():
            rewrite(stack, subject.layers[index], site, change)
        if on_layer is not None:
            for index in range(subject.n_layers):
                _hook_layer(stack, subject, index, current, on_layer)
        if on_layer is not None or any(site == "z" for _, site in rewrites):
            stack.enter_context(watched(watch))
        if edits:
            stack.enter_context(edited(edit))
        yield


def _same(tensor: Tensor) -> Tensor:
    return tensor


def rewrite(stack: ExitStack, layer: nn.Module, site: str, change: Rewrite) -> None:
    """Until `stack` closes, `change` acts on one site of a block (z is the attention function's own)."""

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    def leaving(module: nn.Module, args: Any, output: Any) -> Any:
        changed = change(first(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    if site == "resid_pre":
        stack.callback(layer.register_forward_pre_hook(entering, with_kwargs=True).remove)
    elif site != "z":
        writer = anatomy.attention_writer if site == "attn_out" else anatomy.feed_forward_writer
        stack.callback(writer(layer).register_forward_hook(leaving).remove)


def _hook_layer(
    stack: ExitStack,
    subject: Subject,
    index: int,
    current: dict[int, Layer],
    on_layer: Callable[[Layer], Any],
) -> None:
    layer = subject.layers[index]

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current[index] = begun = Layer(subject, index)
        begun.arguments = by_name(module, args, kwargs)
        begun.resid_pre = begun.arguments["hidden_states"]

    def end(module: nn.Module, args: Any, output: Any) -> None:
        done = current.pop(index)
        done.resid_post = first(output)
        # With layers on several devices the input still lies where the layer before it is.
        done.resid_pre = done.resid_pre.to(done.resid_post.device)
        on_layer(done)

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            current[index]._raw[name] = first(output)

        return hook

    def on(module: nn.Module | None, name: str) -> None:
        if module is not None:
            stack.callback(module.register_forward_hook(keep(name)).remove)

    stack.callback(layer.register_forward_pre_hook(begin, with_kwargs=True).remove)
    stack.callback(layer.register_forward_hook(end).remove)
    on(anatomy.attention_writer(layer), "attn_out")
    on(anatomy.feed_forward_writer(layer), "mlp_out")
    for name in ("q_proj", "k_proj"):
        on(getattr(anatomy.attention_of(layer), name, None), name)


def first(output: Any) -> Tensor:
    """The tensor of a module's output, which some families wrap into a tuple."""
    return output[0] if isinstance(output, tuple) else output


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by the names of the block's own `forward`."""
    names = [name for name in signature(type(module).forward).parameters if name != "self"]
    return dict(zip(names, args, strict=False)) | kwargs
