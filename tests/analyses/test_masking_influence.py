"""Masking influence by the identity of g equals autograd through a map, and what masking really does."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, metrics
from crosslens.analyses.attribution._influence import BINS, _bin, influence_rows
from crosslens.data.example import ROLES
from crosslens.probes.intervene.attention_slopes import attention_slopes
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.observe.tracing import tracing

from ..helpers import tiny
from ..helpers.families import TEXT, build

TEXTS = ["w1 w2 w3 w4 w5 w6", "w3 w1 w7"]
MEASURE = logit_difference(torch.tensor([3, 4]), torch.tensor([5, 6]))


def by_autograd(subject, batch, layer):
    """∂(Σ measure)/∂A of a layer whose pattern is a leaf of the graph: [b, h, q, k], and the pattern."""
    kept = []

    def through_a_map(call):
        pattern = call.pattern().detach().requires_grad_()
        kept.append(pattern)
        return call.edited(pattern_edit=lambda *_: pattern)

    with tracing(subject, edits={layer: through_a_map}):
        logits = subject.forward(batch.inputs, keep=0, gradient=True)
    at_last = logits[torch.arange(len(logits)), batch.last].float()
    (slope,) = torch.autograd.grad(MEASURE(at_last, torch.arange(len(at_last))).sum(), kept)
    return slope, kept[0].detach()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_identity_equals_autograd(family):
    assert family in TEXT
    subject = Subject(build(family), tiny.tokenizer())
    batch = subject.batch(TEXTS)
    for one in attention_slopes(subject, batch, MEASURE):
        slope, pattern = by_autograd(subject, batch, one.index)
        row = (pattern * slope).sum(-1, keepdim=True)
        rest = 1 - pattern
        expected = torch.where(rest <= 0, -pattern * slope, -pattern * (slope - row) / rest.clamp_min(1e-30))
        heads = pattern.shape[1]
        v = one.call.value.float().repeat_interleave(heads // one.call.value.shape[1], 1)
        found = metrics.masking_influence(pattern, v, one.g.transpose(1, 2))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_sums_are_over_all_entries_by_distance_and_by_role():
    subject = tiny.subject()
    batch = subject.batch(TEXTS)
    rows = influence_rows(subject, batch, MEASURE, calibrated=0)
    for one in attention_slopes(subject, batch, MEASURE):
        pattern = one.call.pattern()
        heads = pattern.shape[1]
        v = one.call.value.float().repeat_interleave(heads // one.call.value.shape[1], 1)
        size = metrics.masking_influence(pattern, v, one.g.transpose(1, 2)).abs()
        torch.testing.assert_close(rows["influence|distance"][:, one.index].sum(-1), size.sum((2, 3)))
        torch.testing.assert_close(rows["influence|pairs"][:, one.index].sum((1, 2)), size.sum((1, 2, 3)))
        own = size.diagonal(0, 2, 3)[..., 1:].sum(-1)
        torch.testing.assert_close(rows["influence|distance"][:, one.index, :, 0], own)
        torch.testing.assert_close(rows["influence|distance"][:, one.index, :, BINS], size[..., 0].sum(-1))
    assert rows["influence|pairs"].shape[-2:] == (len(ROLES), len(ROLES))
    lengths = batch.mask.sum(1)
    assert rows["influence|entries"].sum(1).tolist() == (lengths * (lengths + 1) / 2).tolist()


def test_bins_of_distance():
    assert _bin(torch.tensor([0, 1, 2, 3, 4, 7, 8, 10**6])).tolist() == [0, 1, 2, 2, 3, 3, 4, BINS - 1]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(padding):
    subject = tiny.subject()
    together = influence_rows(subject, subject.batch(TEXTS, padding=padding), MEASURE, calibrated=99)
    for i, text in enumerate(TEXTS):
        measure = logit_difference(MEASURE.correct[i : i + 1], MEASURE.wrong[i : i + 1])
        batch = subject.batch([subject.batch(TEXTS).examples[i]])
        assert batch.texts[0] == text
        alone = influence_rows(subject, batch, measure, calibrated=99)
        for name, values in alone.items():
            torch.testing.assert_close(
                together[name][i], values[0], rtol=2e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_calibration_masks_one_key_of_one_head():
    """The exact value is that of a forward in which the entry is cut from the pattern and the row made to sum to 1."""
    subject = tiny.subject()
    batch = subject.batch(TEXTS[:1])
    measure = logit_difference(MEASURE.correct[:1], MEASURE.wrong[:1])
    rows = influence_rows(subject, batch, measure, calibrated=99)
    clean = measure(subject.last_logits(batch).float(), torch.tensor([0]))
    for one in attention_slopes(subject, batch, measure):
        pattern = one.call.pattern()
        v = one.call.value.float().repeat_interleave(pattern.shape[1] // one.call.value.shape[1], 1)
        size = metrics.masking_influence(pattern, v, one.g.transpose(1, 2)).abs()
        size[:, :, 0] = 0
        head, query, column = (int(i) for i in (size == size.max()).nonzero()[0, 1:])

        def cut(given, *_, where=(head, query, column)):
            new = given.clone()
            new[0, where[0], where[1], where[2]] = 0
            return new / new.sum(-1, keepdim=True)

        with torch.no_grad(), tracing(subject, edits={one.index: lambda call: call.edited(pattern_edit=cut)}):
            changed = measure(subject.last_logits(batch).float(), torch.tensor([0]))
        exact = rows["calibration|exact"][0, one.index, 1]
        torch.testing.assert_close(exact, (changed - clean)[0], rtol=1e-3, atol=1e-5)
