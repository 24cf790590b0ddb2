"""Keys that count for more are the public metrics of the materialised map; mixed bases are models that have them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crosslens import Subject, intervening, record, repairs, variant_sweep
from crosslens.analyses import metrics
from crosslens.analyses.common.key_weights import gaze_layers
from crosslens.data.errors import UserError
from crosslens.probes.observe.decode_tracking import behind_image
from crosslens.probes.observe.tracing import tracing
from torch.nn.functional import pad

from ..helpers import contrasts, families, tiny, vision
from ..probes.test_attention_edits import MEASURE, with_base
from ..probes.test_families import assert_close

HEADS = [(0, 1), (0, 3), (1, 2)]


def highlight(given):
    """The second and third real token of each prompt."""
    real = given["attention_mask"].bool()
    place = real.cumsum(1)
    return real & ((place == 2) | (place == 3))


def patterns(subject, given, repair):
    """The first layer's map, as it is and under a repair."""
    seen = []
    keep = lambda layer: seen.append(layer.pattern()) if layer.index == 0 else None  # noqa: E731
    with torch.no_grad(), tracing(subject, keep):
        subject.forward(given)
        with repair:
            subject.forward(given)
    return seen


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral", "qwen3"])
def test_pasta_is_the_public_metric(family, padding):
    subject, given = Subject(families.build(family)), families.prompts(padding)
    spans, real = highlight(given), given["attention_mask"].bool()
    clean, steered = patterns(subject, given, repairs.pasta(subject, given, spans, 0.05, HEADS))
    for i, rows in enumerate(real):
        expected = metrics.emphasize_keys(clean[i].log(), spans[i], rows, 0.05).softmax(-1)
        for head in (1, 3):
            assert_close(steered[i, head][rows], expected[head][rows], family)
        assert torch.equal(steered[i, [0, 2]], clean[i, [0, 2]])


@torch.no_grad()
def test_a_variant_swept_is_the_block_and_padding_changes_nothing():
    subject, values, n = tiny.subject(), [], 3
    for padding in ("left", "right"):
        batch = subject.batch(contrasts.examples(n, tokenizer=None), padding=padding)
        spans = batch.marks["indirect_object"]
        variants = [repairs.pasta_variant(subject, batch, spans, alpha, HEADS) for alpha in (0.01, 0.5)]
        swept = variant_sweep(record(subject, batch), variants, batch.mask, measure=MEASURE)
        values.append(swept.values)
        with repairs.pasta(subject, batch, spans, 0.01, HEADS):
            logits = subject.model(**subject.prepare(batch)).logits[torch.arange(n), batch.last]
        assert_close(swept.values[0], MEASURE(logits.float(), torch.arange(n)), "llama")
        assert (swept.values[0] - swept.clean).abs().max() > 1e-6
    assert_close(values[0], values[1], "llama")


@torch.no_grad()
def test_generated_tokens_read_the_span_more_and_keep_their_own_weight():
    subject, given = tiny.subject(), families.prompts("left")
    spans = highlight(given)
    with repairs.pasta(subject, given, spans, 0.02, HEADS):
        made = subject.model.generate(**given, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    longer = {"input_ids": made[:, :-1], "attention_mask": pad(given["attention_mask"], (0, 4), value=1)}
    variant = repairs.pasta_variant(subject, given, spans, 0.02, HEADS)
    whole = {i: tuple(replace(c, weights=pad(c.weights, (0, 4), value=1.0)) for c in cs) for i, cs in variant.items()}
    with intervening(subject, whole, longer):
        logits = subject.model(**longer).logits
    assert torch.equal(logits[:, -1, 3:].argmax(-1) + 3, made[:, -1])


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_looking_more_and_gazing_are_the_public_metric(family, padding):
    model = vision.build(family)
    subject, given = Subject(model), vision.inputs(model, padding)
    image, real = given["input_ids"] == vision.IMAGE, given["attention_mask"].bool()
    behind = behind_image(image, real)
    saliency = torch.rand(len(image), int(image.sum(1).max()), generator=torch.Generator().manual_seed(0))
    gazed = torch.ones(image.shape)
    gazed[image] = (2.0 * saliency).exp()[torch.arange(saliency.shape[1]) < image.sum(1, keepdim=True)]
    for repair, weights in (
        (repairs.look(subject, given, 3.0), torch.where(image, 3.0, 1.0)),
        (repairs.gaze(subject, given, saliency, 2.0, [0, 1]), gazed),
    ):
        clean, steered = patterns(subject, given, repair)
        for i in range(len(image)):
            expected = metrics.reweight_keys(clean[i], weights[i])
            assert_close(steered[i][:, behind[i]], expected[:, behind[i]], family)
            before = real[i] & ~behind[i]
            assert torch.equal(steered[i][:, before], clean[i][:, before])
        assert (steered - clean).abs().max() > 1e-4


def test_gaze_layers_scale_with_the_model():
    assert gaze_layers(32) == list(range(12, 23))
    assert gaze_layers(4) == [2, 3]
    assert gaze_layers(1) == [0]


def test_mistakes_are_one_line():
    subject, given = tiny.subject(), families.prompts("left")
    spans = highlight(given)
    outside, bare = spans | ~given["attention_mask"].bool(), spans & False
    for said, more in (
        ("alpha = 0", {"alpha": 0.0}),
        ("alpha = -1", {"alpha": -1.0}),
        ("lies outside", {"highlighted": outside}),
        ("no highlighted position", {"highlighted": bare}),
        (r"give Bool\[b, p\]", {"highlighted": spans[:, :2]}),
        ("no head 1.9", {"heads": [(1, 9)]}),
        ("no head 7.0", {"heads": [(7, 0)]}),
    ):
        with pytest.raises(UserError, match=said) as error:
            repairs.pasta_variant(subject, given, **({"highlighted": spans} | more))
        assert "\n" not in str(error.value)
    model = vision.build("llava")
    seeing, shown = Subject(model), vision.inputs(model, "left")
    with pytest.raises(UserError, match="factor = 0"):
        repairs.look_variant(seeing, shown, 0.0)
    with pytest.raises(UserError, match="no layer 9"):
        repairs.look_variant(seeing, shown, 2.0, layers=[9])
    with pytest.raises(UserError, match="image tokens"):
        repairs.gaze_variant(seeing, shown, torch.ones(3, 1), 2.0)
    with pytest.raises(UserError, match="no image token"):
        repairs.look_variant(subject, given, 2.0)
    with pytest.raises(UserError, match="at least one rotary base"):
        repairs.buckets(subject, given, ())


@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_buckets_equal_separate_models(padding):
    given, bases = families.prompts(padding), (500.0, 10000.0, 25000.0)
    last = given["attention_mask"].cumsum(1).argmax(1)
    apart = []
    for base in bases:
        subject, other = with_base("llama", base)
        apart.append(other.model(**other.prepare(given)).logits[torch.arange(3), last].float())
    expected = metrics.mix_bases(torch.stack(apart, 1))
    mixed = repairs.buckets(subject, given, bases)
    assert_close(mixed.logits, expected.logits, "llama")
    assert_close(mixed.weights, expected.weights, "llama")
