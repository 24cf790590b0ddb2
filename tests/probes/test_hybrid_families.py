"""Families whose layers are not all attention: what every layer has is read and changed, heads where there are some.

Layer 1 of each has attention; layers 0 and 2 have a gated delta net, a state space or a convolution.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import UserError
from crosslens.probes.intervene.attribution import attribution_sweep
from crosslens.probes.intervene.direct_attribution import direct_attribution
from crosslens.probes.intervene.knockout import knockout_sweep
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import ablation_sweep, patch_sweep
from crosslens.probes.intervene.paths import Receiver, path_sweep
from crosslens.probes.intervene.recording import record
from crosslens.probes.model import anatomy
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.sites import SITES, SiteError

from ..helpers import by_hand
from ..helpers.families import HYBRID, build, prompts
from .test_families import assert_close, positions

HEADS = ("q", "k", "rot_q", "rot_k", "v", "pattern", "attn_z", "z")
PADDINGS = ["none", "left", "right"]


def logits_of(logits, example):
    return logits


@torch.no_grad()
def eager_run(family, given):
    """What Hugging Face's eager forward reads and writes, by plain hooks."""
    model, seen = build(family, implementation="eager"), {}
    with ExitStack() as hooks:
        for i, layer in enumerate(anatomy.find_layers(anatomy.find_decoder(model), 3)):
            hooks.callback(layer.register_forward_pre_hook(_entering(seen, ("pre", i)), with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(_leaving(seen, ("post", i))).remove)
            hooks.callback(anatomy.feed_forward_writer(layer).register_forward_hook(_leaving(seen, ("mlp", i))).remove)
            if i == 1:
                W_O = layer.self_attn.o_proj if hasattr(layer.self_attn, "o_proj") else layer.self_attn.out_proj
                hooks.callback(W_O.register_forward_pre_hook(_entering(seen, "z"), with_kwargs=True).remove)
        out = model(**given, position_ids=positions(given), use_cache=False, output_attentions=True)
    (pattern,) = [one for one in out.attentions if one is not None]
    return out.logits, pattern, seen


def _entering(seen, key):
    return lambda module, args, kwargs: seen.__setitem__(key, (args[0] if args else kwargs["hidden_states"]).clone())


def _leaving(seen, key):
    def hook(module, args, output):
        seen[key] = (output[0] if isinstance(output, tuple) else output).clone()

    return hook


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", HYBRID)
def test_capture_equals_eager(family, padding):
    given = prompts(padding)
    real = given["attention_mask"].bool()
    logits, pattern, seen = eager_run(family, given)
    subject = Subject(build(family))
    assert subject.decoder.attending == [1]
    cache = capture(subject, given, ["z", "pattern", "resid_pre", "resid_post", "attn_out", "mlp_out"])
    assert {name for name in cache if ".attn." in name} == {"blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z"}
    rows = real[:, None].expand(-1, 4, -1)
    assert_close(cache["pattern", 1][rows], pattern[rows], "pattern")
    assert_close(cache["z", 1].flatten(2)[real], seen["z"].reshape(*real.shape, -1)[real], "z")
    for i in range(3):
        assert_close(cache["resid_pre", i][real], seen["pre", i][real], f"{i} resid_pre")
        assert_close(cache["resid_post", i][real], seen["post", i][real], f"{i} resid_post")
        assert_close(cache["mlp_out", i][real], seen["mlp", i].reshape(*real.shape, -1)[real], f"{i} mlp_out")
        mixed = seen["post", i] - seen["pre", i] - seen["mlp", i].reshape(*real.shape, -1)
        assert_close(cache["attn_out", i][real], mixed[real], f"{i} attn_out", slack=10)
    assert_close(subject.unembed(subject.norm(cache["resid_post", 2]))[real], logits[real], "lens")


@pytest.mark.parametrize("family", HYBRID)
def test_check_passes_and_says_what_runs_on_all_rows(family):
    frame = Subject(build(family)).check()
    (row,) = frame[frame["check"] == "an edited replay equals the edited forward"].to_dict("records")
    assert row["passed"]
    assert "layers 0, 2 mix positions without a pattern" in row["where"]
    assert frame[frame["check"] == "patterns equal eager attention's"]["where"].tolist() == ["layer 1"]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", HYBRID)
def test_knockout_equals_a_mask_by_hand(family, padding):
    given = by_hand.inputs(family, padding)
    mask = given["attention_mask"].bool()
    place = mask.int().cumsum(1)
    first, last = (place == 1) & mask, (place == place[:, -1:]) & mask
    sweep = knockout_sweep(Subject(build(family)), given, first, last, window=1, measure=logits_of)
    assert sweep.values[[0, 2]].isnan().all()
    assert sweep.width.tolist() == [0, 1, 0]
    assert sweep.notes == (f"{family}: layers 0, 2 mix positions without a pattern, so sweeps run them on all rows",)
    edges = last[:, :, None] & first[:, None]
    expected = by_hand.at_last(by_hand.logits(family, given, masks={1: edges}), given)
    assert_close(sweep.values[1], expected, family, slack=3)
    assert (sweep.values[1] - sweep.clean).abs().max() > 1e-3


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", HYBRID)
def test_patches_equal_edits_by_hand(family, padding):
    """Of a head, and of what a mixer that is no attention writes."""
    given, donor = by_hand.inputs(family, padding), by_hand.inputs(family, padding, seed=1)
    subject, mask = Subject(build(family)), given["attention_mask"].bool()
    heads = patch_sweep(subject, given, donor, "z", positions=mask, measure=logits_of)
    assert heads.values.shape[:2] == (3, 4)
    assert heads.values[[0, 2]].isnan().all()
    lent = {}
    by_hand.logits(family, donor, z={1: lambda z: lent.setdefault("z", z.clone())})

    def change(z):
        new = z.clone()
        new[:, :, 2][mask] = lent["z"][:, :, 2][mask]
        return new

    expected = by_hand.at_last(by_hand.logits(family, given, z={1: change}), given)
    assert_close(heads.values[1, 2], expected, family, slack=3)
    mixers = patch_sweep(subject, given, donor, "attn_out", positions=mask, measure=logits_of)
    by_hand.logits(family, donor, outputs={(0, "attn_out"): lambda out: lent.setdefault("out", out.clone())})
    expected = by_hand.logits(
        family, given, outputs={(0, "attn_out"): lambda out: lent["out"].where(mask[..., None], out)}
    )
    assert_close(mixers.values[0], by_hand.at_last(expected, given), family, slack=3)
    assert not mixers.values.isnan().any()


@pytest.mark.parametrize("family", ["qwen3_next", "lfm2"])
def test_heads_of_a_layer_without_attention_are_refused_by_name(family):
    given, subject = prompts("right"), Subject(build(family))
    mixer = type(anatomy.mixer_of(subject.layers[0])).__name__
    for name in HEADS:
        with pytest.raises(SiteError, match=f"{family} has no {name} in layer 0: the layer has a mixer .*{mixer}"):
            subject.decoder.require(0, SITES[name])
    with pytest.raises(SiteError, match="no pattern"):
        capture(subject, given, ["blocks.0.attn.hook_pattern"])
    with pytest.raises(SiteError, match="in layer 2"), tracing(subject, edits={2: lambda call: call}):
        pass
    with pytest.raises(UserError, match="in layer 0"):
        patch_sweep(subject, given, prompts("right", 1), "z", positions="each", measure=logits_of, layers=[0])
    with pytest.raises(UserError, match=r"no receiver \(0, 0, 'q'\) in the 4 heads of layer 1"):
        path_sweep(subject, given, prompts("right", 1), [Receiver(0, 0, "q")], measure=logits_of)


def test_attributions_have_nan_where_there_are_no_heads():
    given, donor = prompts("left"), prompts("left", seed=1)
    subject, mask = Subject(build("qwen3_next")), given["attention_mask"].bool()
    measure = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
    found = attribution_sweep(subject, given, donor, "z", positions=mask, measure=measure)
    assert torch.equal(found.values.isnan().all(-1).all(-1), torch.tensor([True, False, True]))
    parts = direct_attribution(subject, record(subject, given, ("z", "mlp_out")), measure)
    assert torch.equal(parts.heads.isnan().all(-1).all(-1), torch.tensor([True, False, True]))
    whole = parts.heads.nansum((0, 1)) + parts.mlps.sum(0) + parts.rest
    assert_close(whole, found.clean, "parts", slack=10)
    zero = ablation_sweep(subject, given, "z", positions=mask, measure=measure)
    assert torch.equal(zero.values.isnan().all(-1).all(-1), torch.tensor([True, False, True]))


def test_a_mixer_with_an_attentions_name_is_told_by_who_attends():
    """Kimi's delta attention is called `self_attn` and has an `o_proj`, but no pattern."""
    subject = Subject(build("kimi_linear"))
    assert hasattr(subject.layers[0].self_attn, "o_proj")
    assert not anatomy.attends(subject.layers[0])
