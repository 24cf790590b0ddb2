"""The same names, the same numbers: TransformerLens on tiny models, Hugging Face eager on the real one."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import patch_sweep
from crosslens.probes.intervene.paths import Receiver, path_sweep

from ..helpers import tiny
from ..helpers.families import build, prompts
from .test_families import assert_close, positions

SITES = ("z", "v", "rot_q", "rot_k", "pattern", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_names_and_values_equal_transformerlens(family):
    inputs = prompts("none")
    model = build(family)
    logits, cache = tiny.bridge(model).run_with_cache(inputs["input_ids"])
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
    inputs, model = prompts("none"), build(family)
    subject, bridge = Subject(model), tiny.bridge(model)
    _, cache = bridge.run_with_cache(inputs["input_ids"])
    found = capture(subject, inputs, ["resid_pre", "blocks.2.hook_resid_post"])
    for name, state in found.items():
        expected = bridge.unembed(bridge.ln_final(cache[name]))
        assert_close(metrics.logit_lens(state, subject.norm, subject.unembed), expected, name)


MEASURE = logit_difference(torch.tensor([3]), torch.tensor([6]))


def both_runs(family):
    """The subject with its base and donor inputs, and what TransformerLens patches: bridge, tokens, caches, metric.

    Theirs is the other way round by name: clean activations into the corrupted run.
    """
    base, donor = ({k: v[:1] for k, v in prompts("none", seed).items()} for seed in (0, 1))
    model = build(family)
    bridge = tiny.bridge(model)
    (_, donated), (_, own) = (bridge.run_with_cache(one["input_ids"]) for one in (donor, base))
    metric = lambda logits: MEASURE(logits[:, -1], torch.tensor([0]))[0]  # noqa: E731
    return Subject(model), base, donor, (bridge, base["input_ids"], donated, own, metric)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_node_effects_equal_transformerlens(family):
    """Every site, at every position and at all of them."""
    from transformer_lens import patching

    subject, base, donor, (bridge, ids, donated, _, metric) = both_runs(family)
    by_position = {
        "resid_pre": patching.get_act_patch_resid_pre,
        "attn_out": patching.get_act_patch_attn_out,
        "mlp_out": patching.get_act_patch_mlp_out,
        "z": patching.get_act_patch_attn_head_out_by_pos,
    }
    for site, theirs in by_position.items():
        expected = theirs(bridge, ids, donated, metric)
        expected = expected.transpose(1, 2) if site == "z" else expected  # [layer, pos, head]
        found = patch_sweep(subject, base, donor, site, positions="each", measure=MEASURE)
        assert_close(found.values[..., 0], expected, f"{family} {site} by position")
        moved = (expected - found.clean).abs().amax()
        assert float(moved) > 0.1, "nothing was patched"
    expected = patching.get_act_patch_attn_head_out_all_pos(bridge, ids, donated, metric)
    found = patch_sweep(subject, base, donor, "z", positions=torch.ones_like(ids).bool(), measure=MEASURE)
    assert_close(found.values[..., 0], expected, f"{family} z at all positions")


@pytest.mark.parametrize("part", ["q", "k", "v"])
@torch.no_grad()
def test_direct_paths_equal_transformerlens(part):
    """From one head to another's query, key or value, everything between them frozen."""
    from transformer_lens.patching import get_act_patch_direct_path

    subject, base, donor, (bridge, ids, donated, own, metric) = both_runs("gpt2")
    senders = [(0, 0), (0, 3), (1, 2)]
    receivers = [(1, 0), (2, 1), (2, 2)]
    theirs = {
        sender: get_act_patch_direct_path(bridge, ids, donated, own, metric, *sender, component=part, verbose=False)
        for sender in senders
    }
    for layer, head in receivers:
        sweep = path_sweep(subject, base, donor, [Receiver(layer, head, part)], measure=MEASURE, mlps="frozen")
        for sender in senders:
            if sender[0] < layer:
                message = f"{sender} -> {part} of {(layer, head)}"
                assert_close(sweep.values[sender][0], theirs[sender][layer, head], message)


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
    together = capture(smollm2, batch := smollm2.batch(texts, bos=True, padding=padding), ["z", "resid_post"])
    for i, text in enumerate(texts):
        alone = capture(smollm2, smollm2.batch([text], bos=True), ["z", "resid_post"])
        for name, value in alone.items():
            assert_close(together[name][i][batch.mask[i]], value[0], f"{name} of {text!r}")
