"""What heads read with: W_Q, W_K and W_V of every query head, whatever modules a family keeps them in."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ...data.errors import SubjectError
from . import anatomy

SIDES = ("query", "key", "value")
Side = Literal["query", "key", "value"]
NORMS = {"query": ("q_norm", "query_layernorm", "q_layernorm"), "key": ("k_norm", "key_layernorm", "k_layernorm")}


def query_weight(subject: Any, layer: int) -> Float[Tensor, "h d d_head"]:
    """W_Q of every head; biases are not part of it. SubjectError: queries that are normed, or no such projection."""
    return _heads(subject, layer, "query")


def key_weight(subject: Any, layer: int) -> Float[Tensor, "h d d_head"]:
    """W_K of every query head (heads that share keys share it); as `query_weight`."""
    return _heads(subject, layer, "key")


def value_weight(subject: Any, layer: int) -> Float[Tensor, "h d d_head"]:
    """W_V of every query head (heads that share keys and values share it); biases are not part of it.

    SubjectError: values that are normed, or a family whose value projection is neither its own module nor a known part
    of a fused one.
    """
    return _heads(subject, layer, "value")


def _heads(subject: Any, layer: int, side: Side) -> Tensor:
    attention: Any = anatomy.attention_of(subject.layers[layer])
    heads, d_head = subject.decoder.heads(layer), subject.W_O(layer).shape[1]
    norms = (*NORMS.get(side, ()), f"{side[0]}_norm")
    if any(getattr(attention, name, None) is not None for name in norms):
        one = {"query": "queries", "key": "keys", "value": "values"}[side]
        raise SubjectError(f"{subject.family}: the {one} of layer {layer} are normed, so no weight alone gives them")
    weight = _projection(subject, layer, attention, side).detach()
    parts = weight.reshape(len(weight), -1, d_head).transpose(0, 1)
    if len(parts) > heads:
        raise SubjectError(f"{subject.family}: the {side} projection of layer {layer} gives more than its heads read")
    return parts.repeat_interleave(heads // len(parts), 0)


def _projection(subject: Any, layer: int, attention: Any, side: Side) -> Tensor:
    """[d, heads of this side · d_head]."""
    stack, at, d_head = subject.decoder, SIDES.index(side), subject.W_O(layer).shape[1]
    if (own := getattr(attention, f"{side[0]}_proj", None)) is not None:
        return anatomy.weight_in_out(own)
    if hasattr(attention, "c_attn"):  # GPT-2: queries, keys, values side by side
        return anatomy.weight_in_out(attention.c_attn).chunk(3, 1)[at]
    if hasattr(attention, "qkv_proj"):  # Phi-3
        shared = stack.kv_heads(layer) * d_head
        return anatomy.weight_in_out(attention.qkv_proj).split([stack.heads(layer) * d_head, shared, shared], 1)[at]
    if hasattr(attention, "query_key_value"):  # GPT-NeoX: per head its query, key, value
        fused = anatomy.weight_in_out(attention.query_key_value)
        return fused.reshape(len(fused), stack.heads(layer), 3, -1)[:, :, at].flatten(1)
    raise SubjectError(f"{subject.family}: no {side} projection was found in {type(attention).__name__}")
