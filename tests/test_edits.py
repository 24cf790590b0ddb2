"""An edit equals the same edit made by hand in Hugging Face's eager attention, on every text family."""

from __future__ import annotations

import sys

import pytest
import torch
from crosslens import Subject
from crosslens.probes import anatomy
from crosslens.probes.trace import tracing
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from .families import TEXT, build, prompts
from .test_families import assert_close, positions

LAYER, QUERIES, KEYS = 1, slice(6, 9), slice(4, 6)  # within sliding windows, and leaving every row a key


@torch.no_grad()
def by_hand(family, inputs, change):
    """Logits of an eager forward in which `change(mask, z)` acts on one layer."""
    model = build(family, implementation="eager")
    decoder = anatomy.find_decoder(model)
    target = anatomy.attention_of(anatomy.find_layers(decoder, 3)[LAYER])
    eager = sys.modules[type(target).__module__].eager_attention_forward

    def attention(module, query, key, value, attention_mask, **kwargs):
        if module is not target:
            return eager(module, query, key, value, attention_mask, **kwargs)
        mask, after = change(attention_mask)
        z, pattern = eager(module, query, key, value, mask, **kwargs)
        return after(z), pattern

    AttentionInterface.register("by_hand", attention)
    AttentionMaskInterface.register("by_hand", eager_mask)
    decoder.config._attn_implementation = "by_hand"
    return model(**inputs, position_ids=positions(inputs), use_cache=False).logits


def edited(family, inputs, edit):
    subject = Subject(build(family))
    with tracing(subject, edits={LAYER: edit}):
        found = subject.forward(inputs, keep=0)
    assert float((found - subject.forward(inputs, keep=0)).abs().max()) > 1e-3, "the edit moves the logits"
    return found


def knocked(mask):
    """A Boolean mask without the edges QUERIES → KEYS."""
    mask = mask.clone()
    mask[..., QUERIES, KEYS] = False
    return mask


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("family", TEXT)
def test_knocked_out_edges(family, padding):
    inputs = prompts(padding, lengths=(9, 8, 7))
    real = inputs["attention_mask"].bool()

    def change(mask):
        mask = mask.clone()
        mask[..., QUERIES, KEYS] = torch.finfo(mask.dtype).min
        return mask, lambda z: z

    expected = by_hand(family, inputs, change)
    found = edited(family, inputs, lambda call: call.edited(mask=knocked(call.allowed())))
    assert_close(found[real], expected[real], family)


@pytest.mark.parametrize("family", TEXT)
def test_scaled_heads(family):
    inputs = prompts("none")
    scale = torch.tensor([1.0, 0.0, 2.0, 1.0])
    expected = by_hand(family, inputs, lambda mask: (mask, lambda z: z * scale[None, None, :, None]))
    found = edited(family, inputs, lambda call: call.edited(head_scale=scale[None, :, None]))
    assert_close(found, expected, family)
