"""A stack: the layers of one transformer. A subject has a decoder and, where it reads images, a vision tower.

A projector that is an MLP is a stack of one layer, which has neurons and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ...data.errors import SubjectError
from ..sites import SITES, Site, SiteError
from . import anatomy, first_forward, hybrid
from .attention import NAME
from .residual_parts import TOLD

DECODER, VISION, PROJECTOR = "decoder", "vision", "projector"
OF_PROJECTOR = ("mlp_pre", "mlp_post", "mlp_out")


@dataclass(frozen=True, eq=False)
class Stack:
    """The layers of one transformer, with what their heads are.

    name: "decoder", "vision" or "projector". prefix: what the names of its sites begin with, "" or "vision.". config:
    the transformer's own, whose attention implementation its layers ask for. n_heads, n_kv_heads: the most of any
    layer.
    """

    name: str
    family: str
    layers: list[nn.Module] = field(repr=False)
    config: Any = field(repr=False)
    n_heads: int
    n_kv_heads: int

    @property
    def prefix(self) -> str:
        return "" if self.name == DECODER else f"{self.name}."

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def attending(self) -> list[int]:
        """The layers that have attention: all, but in hybrids, whose others have a mixer without a pattern."""
        return [i for i, layer in enumerate(self.layers) if anatomy.attends(layer)]

    @property
    def d_model(self) -> int:
        return self.W_O(self.attending[0]).shape[2]

    @property
    def d_head(self) -> int:
        """The width of a head, of the first layer that has heads: in some families (Gemma 4) others are wider."""
        return self.W_O(self.attending[0]).shape[1]

    def W_O(self, layer: int) -> Float[Tensor, "h d_head d"]:
        """The output projection of a layer's heads; biases are not part of it."""
        return anatomy.output_weight(self.layers[layer], self.heads(layer))

    def W_down(self, layer: int) -> Float[Tensor, "n d"]:
        """What each of a layer's neurons writes. SiteError where its MLP has no neurons and a down projection."""
        return anatomy.weight_in_out(self.module(layer, SITES["mlp_post"]))

    def heads(self, layer: int) -> int:
        """The query heads of a layer; `n_heads` in nearly all families."""
        return self._told(layer, (self.n_heads, self.n_kv_heads))[0]

    def kv_heads(self, layer: int) -> int:
        """The heads of a layer's keys and values; `n_kv_heads` in nearly all families."""
        return self._told(layer, (self.n_heads, self.n_kv_heads))[1]

    def _told(self, layer: int, usual: tuple[int, int]) -> tuple[int, int]:
        attention = anatomy.attention_of(self.layers[layer]) if layer in self.attending else None
        return usual if attention is None else anatomy.HEADS.get(attention, usual)

    def module(self, layer: int, site: Site) -> nn.Module:
        """The module that reads or writes a site. SiteError: this layer has none, with the reason."""
        try:
            return getattr(anatomy, site.reads[1])(self.layers[layer])
        except SubjectError as error:
            raise SiteError(f"{self.family} has no {self.prefix}{site.name} in layer {layer}: {error}") from error

    def require(self, layer: int, site: Site) -> None:
        """SiteError where a layer does not have a site, with the reason."""
        if self.name == PROJECTOR and site.name not in OF_PROJECTOR:
            raise SiteError(f"a projector has no {site.name}: one of {', '.join(OF_PROJECTOR)}")
        if site.of_attention:
            try:
                anatomy.attention_of(self.layers[layer])
            except SubjectError as error:
                raise SiteError(f"{self.family} has no {self.prefix}{site.name} in layer {layer}: {error}") from error
        if site.in_module:
            self.module(layer, site)
        if site.name == "resid_mid" and anatomy.is_parallel(self.layers[layer]):
            raise SiteError(f"{self.family} adds attention and MLP in parallel: there is no resid_mid")

    def has(self, layer: int, site: Site) -> bool:
        """Whether a layer has a site."""
        try:
            self.require(layer, site)
        except SiteError:
            return False
        return True

    def __repr__(self) -> str:
        weight = next(self.layers[0].parameters())
        if self.attending:
            shape = f"{self.n_layers} layers × {self.n_heads} heads × {self.d_head}, d_model {self.d_model}"
        else:
            shape = "{} neurons, d_model {}".format(*self.W_down(0).shape)
        return (
            f"Stack({self.name} of {self.family}: {shape}, {str(weight.dtype).removeprefix('torch.')}, {weight.device})"
        )


def decoder_stack(model: Any) -> Stack:
    """The language model's layers. SubjectError: parts that are not found."""
    config = model.config.get_text_config()
    decoder = anatomy.find_decoder(model)
    layers = anatomy.find_layers(decoder, getattr(config, "num_hidden_layers", None))
    # The decoder's attention alone: a vision tower keeps its own until a block of `tracing` asks for it.
    own: Any = decoder.config
    own._attn_implementation = NAME
    _keep_all_rows(decoder)
    first_forward.tell(model, layers)
    hybrid.tell_attention(layers)
    if not any(map(anatomy.attends, layers)):
        anatomy.attention_of(layers[0])
    for layer in layers:
        if anatomy.attends(layer):
            anatomy.output_projection(layer)
        if layer not in TOLD:
            anatomy.feed_forward_writer(layer)
    n_heads, n_kv_heads = _most_heads(config, layers)
    return Stack(DECODER, model.config.model_type, layers, decoder.config, n_heads, n_kv_heads)


def _most_heads(config: Any, layers: list[nn.Module]) -> tuple[int, int]:
    """Query heads and KV heads as the configuration says, or the most of any layer where they differ."""
    told = [anatomy.HEADS.get(anatomy.attention_of(layer)) for layer in layers if anatomy.attends(layer)]
    seen = [heads for heads in told if heads is not None]
    if len(set(seen)) > 1:
        return max(heads for heads, _ in seen), max(kv_heads for _, kv_heads in seen)
    n_heads = config.num_attention_heads
    return n_heads, getattr(config, "num_key_value_heads", None) or n_heads


def _keep_all_rows(decoder: nn.Module) -> None:
    """Decoders that drop rows on their way, where layers share keys (Gemma 4), keep them: they are read and changed."""
    drops = "logits_to_keep" in signature(decoder.forward).parameters
    if drops and _all_rows not in decoder._forward_pre_hooks.values():
        decoder.register_forward_pre_hook(_all_rows, with_kwargs=True)


def _all_rows(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"logits_to_keep": 0}


def vision_stack(model: Any) -> Stack | None:
    """The vision tower's layers, None without one. SubjectError: a tower whose parts are not found."""
    tower: Any = anatomy.find_tower(model)
    if tower is None:
        return None
    layers, config = anatomy.tower_layers(tower), tower.config
    for layer in layers:
        anatomy.output_projection(layer)
        anatomy.feed_forward_writer(layer)
    n_heads = next((getattr(config, name) for name in ("num_attention_heads", "num_heads") if hasattr(config, name)), 0)
    if not n_heads:
        raise SubjectError(f"{type(tower).__name__} does not say how many heads it has")
    return Stack(VISION, config.model_type, layers, config, n_heads, n_heads)


def projector_stack(model: Any) -> Stack | None:
    """The MLP between vision tower and decoder as a stack of one layer; None without one, or for another kind."""
    projector = anatomy.find_projector(model)
    return None if projector is None else Stack(PROJECTOR, model.config.model_type, [projector], model.config, 0, 0)
