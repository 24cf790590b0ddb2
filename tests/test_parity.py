"""The same names, the same numbers: TransformerLens on tiny models, Hugging Face eager on the real one."""

from __future__ import annotations

import copy

import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics

from .families import build, prompts
from .test_families import assert_close, positions

SITES = ("z", "v", "rot_q", "rot_k", "pattern", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def bridge_cache(model, inputs):
    """TransformerLens' activations of a copy: booting a bridge rewires the model in place."""
    from transformer_lens.model_bridge import TransformerBridge

    from . import tiny

    model = copy.deepcopy(model)
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=model, tokenizer=tiny.tokenizer(bos=False), device="cpu", dtype=torch.float32
    )
    logits, cache = bridge.run_with_cache(inputs["input_ids"])
    return logits, cache


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_names_and_values_equal_transformerlens(family):
    inputs = prompts("none")
    model = build(family)
    model.config.architectures = [type(model).__name__]
    logits, cache = bridge_cache(model, inputs)
    subject = Subject(model)
    found = capture(subject, inputs, [s for s in SITES if family == "llama" or not s.startswith("rot")])
    for name, value in found.items():
        assert name in cache, name
        expected = cache[name].reshape(value.shape)
        assert_close(value, expected, name)
    assert_close(subject.forward(inputs, keep=0), logits, "logits")
    lens = metrics.logit_lens(found["blocks.1.hook_resid_post"], subject.norm, subject.unembed)
    state = cache["blocks.1.hook_resid_post"]
    assert_close(lens.detach(), subject.unembed(subject.norm(state)).detach(), "logit lens")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_logit_lens_equals_transformerlens(family):
    """Every state through TransformerLens' own final norm and unembedding, and through ours."""
    from transformer_lens.model_bridge import TransformerBridge

    from . import tiny

    inputs, model = prompts("none"), build(family)
    model.config.architectures = [type(model).__name__]
    subject = Subject(copy.deepcopy(model))
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=model, tokenizer=tiny.tokenizer(bos=False), device="cpu", dtype=torch.float32
    )
    _, cache = bridge.run_with_cache(inputs["input_ids"])
    found = capture(subject, inputs, ["resid_pre", "blocks.2.hook_resid_post"])
    for name, state in found.items():
        expected = bridge.unembed(bridge.ln_final(cache[name]))
        assert_close(metrics.logit_lens(state, subject.norm, subject.unembed), expected, name)


@pytest.mark.real
@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_smollm2_equals_eager(smollm2, padding):
    batch = smollm2.batch(
        ["The capital of France is", "When Mary and John went to the store, John gave a drink to", "Two plus two"],
        padding=padding,
    )
    found = capture(smollm2, batch, ["pattern", "z", "resid_pre"])
    logits = smollm2.last_logits(batch)
    z = {}
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, a, i=i: z.__setitem__(i, a[0]))
        for i, layer in enumerate(smollm2.layers)
    ]
    config = smollm2.text_config
    ours, config._attn_implementation = config._attn_implementation, "eager"
    try:
        eager = smollm2.model(
            **batch.inputs, position_ids=positions(batch.inputs), output_attentions=True, output_hidden_states=True
        )
    finally:
        config._attn_implementation = ours
        for handle in handles:
            handle.remove()
    real = batch.mask
    rows = real[:, None].expand(-1, smollm2.n_heads, -1)
    for i in range(smollm2.n_layers):
        assert_close(found[f"blocks.{i}.attn.hook_pattern"][rows], eager.attentions[i][rows], f"pattern {i}")
        assert_close(found[f"blocks.{i}.attn.hook_z"].flatten(2)[real], z[i][real], f"z {i}")
        assert_close(found[f"blocks.{i}.hook_resid_pre"][real], eager.hidden_states[i][real], f"resid_pre {i}")
    expected = eager.logits[torch.arange(3), batch.last]
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.real
@pytest.mark.parametrize("padding", ["left", "right"])
def test_smollm2_padded_equals_alone(smollm2, padding):
    texts = ["The capital of France is", "When Mary and John went to the store, John gave a drink to", "Two"]
    together = capture(smollm2, batch := smollm2.batch(texts, padding=padding), ["z", "resid_post"])
    for i, text in enumerate(texts):
        alone = capture(smollm2, smollm2.batch([text]), ["z", "resid_post"])
        for name, value in alone.items():
            assert_close(together[name][i][batch.mask[i]], value[0], f"{name} of {text!r}")
