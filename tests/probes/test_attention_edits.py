"""Edits of the attention: weighed keys equal the materialised map, other bases equal models that have them."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, intervening, interventions, record, variant_sweep
from crosslens.analyses import metrics
from crosslens.data.errors import UserError
from crosslens.probes.intervene.intervening import full_forward
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.rope import other_base, rotary_frequencies, turned_by
from crosslens.probes.observe.tracing import tracing
from transformers import AutoConfig, AutoModelForCausalLM

from ..helpers import families, tiny, vision
from ..helpers.by_hand import FAMILIES
from ..helpers.families import SHAPE
from .test_families import assert_close

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
WITH_ATTENTION = [family for family in FAMILIES if family != "none"]


def weights_of(batch, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(batch["input_ids"].shape, generator=rng) * 3 + 0.05


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", families.TEXT)
@torch.no_grad()
def test_weighed_keys_equal_the_materialised_map(family, padding):
    """Pattern × weight, rows divided by their sum (sinks keep their own logit), for some heads and rows."""
    subject = Subject(families.build(family))
    inputs = families.prompts(padding)
    weights, heads = weights_of(inputs), (1, 2)
    rows = torch.rand(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(1)) < 0.6
    clean = {}
    with tracing(subject, lambda layer: clean.update({layer.index: layer.pattern()})):
        subject.forward(inputs)

    def check(layer):
        if layer.index != 0:
            return
        pattern, own = layer.pattern(), clean[0]
        new = own * weights[:, None, None]
        sink = 1 - own.sum(-1, keepdim=True)  # what the family's sink logits took
        new = new / (new.sum(-1, keepdim=True) + sink).clamp_min(1e-30)
        edited = torch.zeros(own.shape[1], dtype=torch.bool)
        edited[list(heads)] = True
        expected = torch.where(edited[:, None, None] & rows[:, None, :, None], new, own)
        real = inputs["attention_mask"].bool()
        assert_close(
            pattern[real[:, None, :, None].expand_as(pattern)],
            expected[real[:, None, :, None].expand_as(pattern)],
            family,
        )
        value = layer.v.repeat_interleave(own.shape[1] // layer.v.shape[2], 2)
        z = torch.einsum("bhqk,bkhe->bqhe", expected, value)
        assert_close(layer.attn_z[real], z[real], family)

    change = interventions.WeighKeys(rows, weights, heads)
    with intervening(subject, {0: (change,)}, inputs), tracing(subject, check):
        subject.forward(inputs)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_oss", "mistral"])
@torch.no_grad()
def test_weighed_keys_swept_equal_whole_forwards(family):
    subject = Subject(families.build(family))
    inputs = families.prompts("left")
    base = record(subject, inputs)
    one, other = (interventions.WeighKeys(None, weights_of(inputs, seed), (0, 3)) for seed in (2, 3))
    variants = [{1: (one,)}, {0: (other,), 2: (one,)}, {1: (one, other)}, {1: (other, one)}]
    swept = variant_sweep(base, variants, inputs["attention_mask"].bool(), measure=MEASURE)
    for values, variant in zip(swept.values, variants, strict=True):
        last = full_forward(base, variant)
        assert_close(values, MEASURE(subject.unembed(subject.norm(last)).float(), torch.arange(3)), family)
    assert_close(swept.values[2], swept.values[3], family)  # in any order
    assert (swept.values[0] - swept.clean).abs().max() > 1e-6


@torch.no_grad()
def test_weighed_keys_are_the_public_metric():
    subject = tiny.subject()
    inputs = families.prompts("left")
    weights, seen = weights_of(inputs), []
    with tracing(subject, lambda layer: seen.append(layer.pattern())):
        subject.forward(inputs)
        with intervening(subject, {0: (interventions.WeighKeys(None, weights),)}, inputs):
            subject.forward(inputs)
    clean, edited = seen[0], seen[subject.n_layers]
    for example in range(len(weights)):
        torch.testing.assert_close(edited[example], metrics.reweight_keys(clean[example], weights[example]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@torch.no_grad()
def test_in_generation_the_cache_changes_nothing(family):
    subject = Subject(families.build(family))
    inputs = families.prompts("left")
    change = {i: (interventions.WeighKeys(None, weights_of(inputs), (1,)),) for i in range(subject.n_layers)}
    with intervening(subject, change, inputs, generated=True):
        made = subject.model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    longer, extra = {"input_ids": made[:, :-1]}, 4
    longer["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, extra), value=1)
    weights = torch.nn.functional.pad(weights_of(inputs), (0, extra), value=1.0)
    whole = {i: (interventions.WeighKeys(None, weights, (1,)),) for i in range(subject.n_layers)}
    with intervening(subject, whole, longer):
        logits = subject.model(**longer).logits
    assert torch.equal(logits[:, -1, 3:].argmax(-1) + 3, made[:, -1])  # none of them is an end


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf")])
def test_weights_that_are_no_weights_are_refused(bad):
    weights = torch.ones(1, 4)
    weights[0, 2] = bad
    with pytest.raises(UserError, match="numbers above 0"):
        interventions.WeighKeys(None, weights)


def test_weights_of_another_batch_are_refused():
    subject = tiny.subject()
    inputs = families.prompts("left")
    with pytest.raises(UserError, match="weights of 3 keys"):  # noqa: SIM117
        with intervening(subject, {0: (interventions.WeighKeys(None, torch.ones(3, 3)),)}, inputs):
            subject.forward(inputs)


def with_base(family, base):
    """The same weights in a model whose configuration has this base."""
    model, other = families.build(family), families.build(family)
    decoder = getattr(other, "model", None) or other.gpt_neox
    rotary = decoder.rotary_emb
    pairs = len(rotary.inv_freq)
    rotary.inv_freq = base ** (-torch.arange(pairs).float() / pairs)
    return Subject(model), Subject(other)


TURNED = ["llama", "gpt_neox", "qwen2", "qwen3", "mistral", "phi", "phi3", "starcoder2", "olmo2", "granite", "mixtral"]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", TURNED)
@torch.no_grad()
def test_another_base_equals_the_model_that_has_it(family, padding):
    subject, other = with_base(family, 500.0)
    inputs = families.prompts(padding)
    real = inputs["attention_mask"].bool()
    with other_base(subject, 500.0, inputs):
        turned = subject.model(**inputs).logits
    expected = other.model(**inputs).logits
    assert_close(turned[real], expected[real], family)
    moves = (turned - subject.model(**inputs).logits)[real].abs().max()
    assert moves > 1e-5 or len(rotary_frequencies(subject)) == 1  # the fastest pair is the same under any base


@torch.no_grad()
def test_another_base_swept_and_in_generation():
    subject, other = with_base("llama", 500.0)
    inputs = families.prompts("left")
    swept = variant_sweep(
        record(subject, inputs), [turned_by(subject, 500.0, inputs)], inputs["attention_mask"].bool(), measure=MEASURE
    )
    expected = MEASURE(other.model(**inputs).logits[:, -1].float(), torch.arange(3))
    assert_close(swept.values[0], expected, "llama")
    with other_base(subject, 500.0, inputs):
        made = subject.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(made, other.model.generate(**inputs, max_new_tokens=6, do_sample=False))


@torch.no_grad()
def test_each_prompt_may_have_its_own_base():
    subject = tiny.subject()
    inputs = families.prompts("left")
    with other_base(subject, [10000.0, 500.0, 90.0], inputs):
        together = subject.model(**inputs).logits[:, -1]
    for i, base in enumerate((10000.0, 500.0, 90.0)):
        with other_base(subject, base, inputs):
            assert_close(subject.model(**inputs).logits[i, -1], together[i], "llama")


@pytest.mark.parametrize("family", ["gpt2", "cohere2", "glm4", "gemma3_text", "smollm3"])
def test_families_without_one_base_are_refused(family):
    with pytest.raises(UserError, match=r"rotary|neighbouring"):
        rotary_frequencies(Subject(families.build(family)))


def test_layers_that_do_not_turn_are_named():
    layers = SHAPE | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}
    config = AutoConfig.for_model("exaone4", **layers)
    with pytest.raises(UserError, match=r"without a rotary turn, \[1\]"):
        rotary_frequencies(Subject(AutoModelForCausalLM.from_config(config)))


def test_images_placed_by_row_and_column_are_refused_and_text_is_not():
    subject = Subject(vision.build("qwen2_5_vl"))
    inputs = vision.inputs(subject.model, "left")
    with pytest.raises(UserError, match="by row and column"):
        turned_by(subject, 500.0, inputs)
    assert turned_by(subject, 500.0, {"input_ids": torch.tensor([[3, 4, 5]])})
