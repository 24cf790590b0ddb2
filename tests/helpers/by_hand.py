"""The slow way: one plain Hugging Face eager forward per edit, with the mask or the activation changed by hand."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import cache

import torch
from crosslens.probes.model import anatomy
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ..probes.test_families import positions
from . import families, vision

FAMILIES = [*families.TEXT, *vision.VISION]


def build(family, implementation=None):
    """A tiny model of any family, text or vision-language; always the same weights."""
    return (vision if family in vision.VISION else families).build(family, implementation=implementation)


def inputs(family, padding, seed=0, lengths=None):
    """Three prompts for it, with images where it takes them; short enough for Llama 4's chunks of 8."""
    if family not in vision.VISION:
        return families.prompts(padding, seed, lengths or (8, 6, 5))
    return vision.inputs(_eager(family), padding, seed, **({} if lengths is None else {"lengths": lengths}))


@cache
def _eager(family, dtype=torch.float32):
    """One model of a family and dtype for all forwards made by hand."""
    return build(family, "eager").to(dtype)


@torch.no_grad()
def logits(
    family,
    given,
    *,
    masks=None,
    attn_z=None,
    z=None,
    states=None,
    outputs=None,
    lent=None,
    reads=None,
    dtype=torch.float32,
):
    """Logits [b, p, vocab] of an eager forward in a dtype.

    masks: layer -> Bool[b, q, k], edges that are removed, or [b, h, q, k]. lent: layer -> (key, value) read at them.
    attn_z, z: functions on what a layer's attention gives [b, p, h, d_head], or on what W_O reads. states, outputs: on
    what enters a layer, or, by (layer, "attn_out" or "mlp_out"), on a part.
    reads: functions on a layer's (query, key, value), all of them with as many heads as the query.
    """
    masks, attn_z, z, states, outputs, lent, reads = (
        some or {} for some in (masks, attn_z, z, states, outputs, lent, reads)
    )
    model = _eager(family, dtype)
    decoder = anatomy.find_decoder(model)
    layers = anatomy.find_layers(decoder, 3)
    index = {id(anatomy.attention_of(layer)): i for i, layer in enumerate(layers) if anatomy.attends(layer)}
    eager = sys.modules[type(layers[0]).__module__].eager_attention_forward

    def attention(module, query, key, value, attention_mask, **kwargs):
        i = index[id(module)]
        if i in masks:
            lowest = torch.finfo(attention_mask.dtype).min
            edges, mask = masks[i] if masks[i].ndim == 4 else masks[i][:, None], attention_mask
            attention_mask = mask.expand(*edges.shape[:2], *mask.shape[2:]).masked_fill(edges, lowest)
            if i in lent:
                key, value = torch.cat([key, lent[i][0]], 2), torch.cat([value, lent[i][1]], 2)
                attention_mask = torch.cat([attention_mask, mask.masked_fill(~edges, lowest)], -1)
        groups = query.shape[1] // key.shape[1]
        if i in reads:
            each = (t.repeat_interleave(groups, 1) for t in (key, value))
            query, key, value = reads[i](query, *each)
            if hasattr(module, "num_key_value_groups"):
                module.num_key_value_groups = 1
        out, pattern = eager(module, query, key, value, attention_mask, **kwargs)
        if hasattr(module, "num_key_value_groups"):
            module.num_key_value_groups = groups if i in reads else module.num_key_value_groups
        return attn_z.get(i, lambda x: x)(out), pattern

    AttentionInterface.register("by_hand", attention)
    AttentionMaskInterface.register("by_hand", eager_mask)
    decoder.config._attn_implementation = "by_hand"
    told = {} if family in vision.COUNTS_IMAGES else {"position_ids": positions(given)}
    with ExitStack() as stack:
        for i, change in states.items():
            stack.callback(layers[i].register_forward_pre_hook(_entering(change), with_kwargs=True).remove)
        for i, change in z.items():
            heads = model.config.get_text_config().num_attention_heads
            W_O = anatomy.output_projection(layers[i])
            stack.callback(W_O.register_forward_pre_hook(_by_head(change, heads)).remove)
        for (i, site), change in outputs.items():
            find = anatomy.attention_writer if site == "attn_out" else anatomy.feed_forward_writer
            stack.callback(find(layers[i]).register_forward_hook(_leaving(change)).remove)
        return model(**given, **told, use_cache=False).logits


def _entering(change):
    def hook(module, args, kwargs):
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    return hook


def _by_head(change, heads):
    def hook(module, args):
        z = args[0].reshape(*args[0].shape[:2], heads, -1)
        return (change(z).reshape(args[0].shape), *args[1:])

    return hook


def _leaving(change):
    def hook(module, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


def at_last(found, given):
    """[b, p, vocab] -> [b, vocab] at the last real position."""
    mask = given["attention_mask"]
    last = (mask * torch.arange(mask.shape[1])).argmax(1)
    return found[torch.arange(len(mask)), last]
