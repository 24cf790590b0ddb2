"""Every site of every family equals what Hugging Face's eager attention computes, with any padding."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import SubjectError
from crosslens.probes.model import anatomy

from ..helpers.families import REFUSED, TEXT, build, prompts

TOLERANCE = 1e-5


def positions(inputs):
    """What a model that counts from the first real token is told under left padding."""
    return (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def eager_run(family, inputs):
    """An eager forward with plain hooks: z as the output projection's input, maps and states as the model returns."""
    model = build(family, implementation="eager")
    z = {}

    def keep(index):
        return lambda module, args: z.__setitem__(index, args[0])

    with ExitStack() as stack:
        layers = anatomy.find_layers(anatomy.find_decoder(model), 3)
        for i, layer in enumerate(layers):
            stack.callback(anatomy.output_projection(layer).register_forward_pre_hook(keep(i)).remove)
        result = model(
            **inputs,
            position_ids=positions(inputs),
            use_cache=False,
            output_attentions=True,
            output_hidden_states=True,
        )
    return result, z


def assert_close(found, expected, where, slack=1.0):
    found, expected = found.detach(), expected.detach()
    scale = float(expected.abs().max()) or 1.0
    error = float((found - expected).abs().max()) / scale
    assert error <= slack * TOLERANCE, f"{where}: {error:.2g}"


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("family", TEXT)
def test_capture_equals_eager(family, padding):
    inputs = prompts(padding)
    real = inputs["attention_mask"].bool()
    expected, z = eager_run(family, inputs)
    subject = Subject(build(family))
    found = capture(subject, inputs, ["z", "pattern", "resid_pre", "resid_post", "attn_out", "mlp_out"])
    rows = real[:, None].expand(-1, subject.n_heads, -1)
    for i in range(3):
        name = f"blocks.{i}."
        assert_close(found[name + "attn.hook_z"].flatten(2)[real], z[i].reshape(*real.shape, -1)[real], name + "z")
        assert_close(found[name + "attn.hook_pattern"][rows], expected.attentions[i][rows], name + "pattern")
        assert_close(found[name + "hook_resid_pre"][real], expected.hidden_states[i][real], name + "resid_pre")
        parts = sum(found[name + site] for site in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out"))
        assert_close(parts[real], found[name + "hook_resid_post"][real], name + "resid_post")
    last = subject.unembed(subject.norm(found["blocks.2.hook_resid_post"]))
    assert_close(last[real], expected.logits[real], "lens of the last state")


@pytest.mark.parametrize("family", TEXT)
def test_chosen_rows_equal_whole_maps(family):
    inputs = prompts("left")
    subject = Subject(build(family))
    whole = capture(subject, inputs, ["pattern"])
    queries = torch.tensor([[8, 3], [8, 5], [7, 6]])
    rows = capture(subject, inputs, ["pattern"], queries=queries)
    for name, pattern in whole.items():
        picked = pattern.gather(2, queries[:, None, :, None].expand(-1, 4, -1, 9))
        torch.testing.assert_close(rows[name], picked, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", TEXT)
def test_padding_changes_nothing(family):
    """Every example alone equals the same example in a padded batch."""
    subject = Subject(build(family))
    lengths = (9, 6, 4)
    for padding in ("left", "right"):
        batch = prompts(padding)
        together = subject.last_logits(batch)
        for i in range(len(lengths)):
            real = batch["attention_mask"][i].bool()
            alone = {"input_ids": batch["input_ids"][i][real][None]}
            assert_close(together[i], subject.last_logits(alone)[0], f"{padding} {i}")


@pytest.mark.parametrize("family", TEXT)
def test_check_passes(family):
    frame = Subject(build(family)).check()
    # BitNet has a norm between the activation and the down projection: a note, since mlp_post is what the latter reads.
    notes = ["the activation of mlp_pre is mlp_post"] if family == "bitnet" else []
    assert set(frame.loc[~frame["passed"].astype(bool), "check"]) == set(notes)
    assert frame["check"].nunique() >= 12


@pytest.mark.parametrize("family", REFUSED)
def test_refused_by_name(family):
    with pytest.raises(SubjectError, match=family):
        Subject(build(family)).check()
