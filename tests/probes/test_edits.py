"""An edit equals the same edit made by hand in Hugging Face's eager attention, on every family."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.probes.observe.tracing import tracing

from ..helpers import by_hand
from ..helpers.by_hand import FAMILIES
from .test_families import assert_close

LAYER = 1


def edited(family, given, edit):
    subject = Subject(by_hand.build(family))
    with tracing(subject, edits={LAYER: edit}):
        found = subject.forward(given, keep=0)
    assert float((found - subject.forward(given, keep=0)).abs().max()) > 1e-3, "the edit moves the logits"
    return found


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_knocked_out_edges(family, padding):
    given = by_hand.inputs(family, padding)
    real = given["attention_mask"].bool()
    # Two keys near the end, read from the last three rows: within sliding windows, and every row keeps a key.
    edges = torch.zeros(*real.shape, real.shape[1], dtype=torch.bool)
    edges[:, -3:, -5:-3] = True
    expected = by_hand.logits(family, given, masks={LAYER: edges})
    found = edited(family, given, lambda call: call.edited(mask=call.allowed() & ~edges[:, None]))
    assert_close(found[real], expected[real], family)


@pytest.mark.parametrize("family", FAMILIES)
def test_scaled_heads(family):
    given = by_hand.inputs(family, "none")
    scale = torch.tensor([1.0, 0.0, 2.0, 1.0])
    expected = by_hand.logits(family, given, attn_z={LAYER: lambda z: z * scale[None, None, :, None]})
    found = edited(family, given, lambda call: call.edited(head_scale=scale[None, :, None]))
    assert_close(found, expected, family)
