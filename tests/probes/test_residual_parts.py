"""What layers add to the residual is told by their own sums: several writers, a third addend, carried residuals.

Expected values are read by plain hooks on eager models, from module names written down by hand.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from crosslens import Subject, capture, patch_sweep
from crosslens.data.errors import SubjectError
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.model import anatomy, block_sums, chosen_keys, head
from crosslens.probes.model.residual_parts import TOLD, Part
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.sites import SiteError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLIndexer

from ..helpers.families import HYBRID, ODD, SHAPE, TEXT, VOCAB, build, prompts
from .test_families import assert_close, positions

PARTS = "parts sum to the residual"
# What reads the residual between attention and MLP in each layer; what the third addend comes out of.
MID = {
    "gemma4_text": "pre_feedforward_layernorm",
    "granitemoehybrid": "post_attention_layernorm",
    "falcon_h1": "pre_ff_layernorm",
    "minicpm3": "post_attention_layernorm",
    "beam": "pre_feedforward_layernorm",
    "laguna": "post_attention_layernorm",
    "deepseek_v32": "post_attention_layernorm",
}
BESIDE = {"gemma4_text": "post_per_layer_input_norm"}


def carried(family: str, layer: nn.Module, index: int) -> tuple[float, float]:
    """What the residual is multiplied with on the way to the MLP, and behind it, from the modelling files."""
    if family == "beam":
        before, behind = 2 * (index + 1), 2 * (index + 1) + 1
        return ((before - 1) / before) ** 0.5, ((behind - 1) / behind) ** 0.5
    return 1.0, float(layer.layer_scalar) if family == "gemma4_text" else 1.0


@torch.no_grad()
def by_hand(family, given):
    """(layer, "pre", "mid", "beside", "post") of a plain eager forward."""
    model, seen = build(family, implementation="eager"), {}
    with ExitStack() as hooks:
        for i, layer in enumerate(anatomy.find_decoder(model).layers):
            places = {"mid": layer.get_submodule(MID[family]), "pre": layer}
            for name, module in places.items():
                hook = _reading(seen, (i, name))
                hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(_writing(seen, (i, "post"))).remove)
            if family in BESIDE:
                hook = _writing(seen, (i, "beside"))
                hooks.callback(layer.get_submodule(BESIDE[family]).register_forward_hook(hook).remove)
        seen["logits"] = model(**given, position_ids=positions(given), use_cache=False).logits
    return model, seen


def _reading(seen, key):
    def hook(module, args, kwargs):
        seen[key] = (args[0] if args else kwargs["hidden_states"]).clone()

    return hook


def _writing(seen, key):
    def hook(module, args, output):
        seen[key] = (output[0] if isinstance(output, tuple) else output).clone()

    return hook


@pytest.mark.parametrize("family", MID)
def test_parts_equal_differences_of_the_residual(family):
    given = prompts("left")
    model, seen = by_hand(family, given)
    subject = Subject(build(family))
    names = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", *(["beside_out"] * (family in BESIDE))]
    found, real = capture(subject, given, names), given["attention_mask"].bool()
    for i, layer in enumerate(anatomy.find_decoder(model).layers):
        into_mid, past_mid = carried(family, layer, i)
        beside = past_mid * seen[i, "beside"] if family in BESIDE else torch.zeros(1)
        expected = {
            "attn_out": seen[i, "mid"] - into_mid * seen[i, "pre"],
            "resid_mid": seen[i, "mid"],
            "mlp_out": seen[i, "post"] - past_mid * seen[i, "mid"] - beside,
            "resid_post": seen[i, "post"],
        } | ({"beside_out": beside} if family in BESIDE else {})
        for name, tensor in expected.items():
            assert_close(found[name, i][real], tensor[real], f"{family} {name} {i}", slack=3)


@pytest.mark.parametrize(
    ("family", "site"),
    [(family, site) for family in MID for site in ("attn_out", "mlp_out")] + [(one, "beside_out") for one in BESIDE],
)
def test_what_is_added_to_a_part_moves_the_residual_by_itself(family, site):
    """attn_out moves resid_mid by the vector, mlp_out and a third addend the residual behind the layer."""
    given, subject = prompts("right"), Subject(build(family))
    vector = torch.randn(32, generator=torch.Generator().manual_seed(3))
    gain = anatomy.gain(subject.layers[1], site)
    seen = {}

    def keep(layer):
        if layer.index == 1:
            seen["mid"], seen["post"] = layer.resid_mid, layer.resid_post
            seen["beside"] = layer["beside_out"] if family in BESIDE else torch.zeros(1)

    with tracing(subject, keep):
        subject.forward(given)
    clean = dict(seen)
    with tracing(subject, keep, rewrites={(1, site): lambda written: written + vector / gain}):
        moved = subject.forward(given, keep=0)
    if site == "attn_out":
        assert_close(seen["mid"] - clean["mid"], vector.expand_as(clean["mid"]), "mid", slack=10)
    else:
        others = seen["beside"] - clean["beside"] if site == "mlp_out" else 0
        assert_close(seen["post"] - clean["post"] - others, vector.expand_as(clean["mid"]), "post", slack=10)
    expected = edited_by_hand(family, given, site, vector)
    assert_close(moved[given["attention_mask"].bool()], expected[given["attention_mask"].bool()], "logits", slack=10)


@torch.no_grad()
def edited_by_hand(family, given, site, vector):
    """Logits of an eager forward in which one more vector is added to the residual in layer 1."""
    model = build(family, implementation="eager")
    layer, moves = anatomy.find_decoder(model).layers[1], vector
    _, past_mid = carried(family, layer, 1)
    mid, beside = layer.get_submodule(MID[family]), BESIDE.get(family)
    stack = ExitStack()
    if site == "attn_out":  # the skip connection goes by the module that reads resid_mid
        stack.callback(mid.register_forward_pre_hook(lambda m, args: (args[0] + vector, *args[1:])).remove)
        moves = vector * past_mid
    if beside and site != "beside_out":  # what the per-layer input's gate reads
        gate = layer.per_layer_input_gate
        reads = vector if site == "attn_out" else vector / past_mid
        stack.callback(gate.register_forward_pre_hook(lambda m, args: (args[0] + reads,)).remove)

    def leaving(module, args, output):
        return (output[0] + moves, *output[1:]) if isinstance(output, tuple) else output + moves

    stack.callback(layer.register_forward_hook(leaving).remove)
    with stack:
        return model(**given, position_ids=positions(given), use_cache=False).logits


@pytest.mark.parametrize("family", ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_passes(family, dtype):
    frame = Subject(build(family).to(dtype)).check()
    failed = set(frame.loc[~frame["passed"].astype(bool), "check"])
    assert failed <= {"an edited replay equals the edited forward"}


def test_named_families_keep_their_modules():
    subjects = [Subject(build(family)) for family in (*TEXT, *HYBRID)]
    assert [s.family for s in subjects if any(layer in TOLD for layer in s.layers)] == []
    assert [s.family for s in subjects if s.model in head.LOGIT_SCALES] == []


def test_layers_of_one_part_have_no_other():
    """Nemotron-H: a state space, an attention, experts; each layer is one of them."""
    given, subject = prompts("left"), Subject(build("nemotron_h"))
    cache = capture(subject, given, ["attn_out", "mlp_out", "z", "resid_post"])
    assert [name for name in cache if "mlp_out" in name] == ["blocks.2.hook_mlp_out"]
    assert [name for name in cache if "attn_out" in name] == ["blocks.0.hook_attn_out", "blocks.1.hook_attn_out"]
    assert [name for name in cache if "hook_z" in name] == ["blocks.1.attn.hook_z"]
    with pytest.raises(SiteError, match="no mlp_out in layer 0: the layer adds nothing of an MLP"):
        capture(subject, given, ["blocks.0.hook_mlp_out"])
    with pytest.raises(SiteError, match="no attn_out in layer 2: the layer adds nothing of a mixer"):
        capture(subject, given, ["blocks.2.hook_attn_out"])


@pytest.mark.parametrize("family", ["falcon_h1", "gemma4_text", "granitemoehybrid", "nemotron_h"])
def test_patches_of_a_part_equal_edits_by_hand(family):
    """The donor's part instead of the own one is the difference added."""
    given, donor, subject = prompts("left"), prompts("left", seed=1), Subject(build(family))
    mask, layer = given["attention_mask"].bool(), 2 if family == "nemotron_h" else 1
    measure = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
    sweep = patch_sweep(subject, given, donor, "mlp_out", positions=mask, measure=measure)
    lent = capture(subject, donor, [f"blocks.{layer}.hook_mlp_out"])["mlp_out", layer]
    own = capture(subject, given, [f"blocks.{layer}.hook_mlp_out"])["mlp_out", layer]
    gain = anatomy.gain(subject.layers[layer], "mlp_out")
    change = (lent - own).masked_fill(~mask[..., None], 0) / gain
    with tracing(subject, rewrites={(layer, "mlp_out"): lambda written: written + change}):
        logits = subject.last_logits(given)
    expected = logits[range(3), [3, 4, 5]] - logits[range(3), [6, 7, 8]]
    assert_close(sweep.values[layer], expected, family, slack=10)
    assert (sweep.values[layer] - sweep.clean).abs().max() > 1e-3


# --- planted faults


def caught(family, proof, fault):
    subject = Subject(build(family))
    fault(subject)
    with pytest.raises(SubjectError) as error:
        subject.check()
    assert f"{subject.family} ({subject.name}): {proof} fails at layer 0" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("family", "forgotten"),
    [
        ("gemma4_text", {"past_mid": 1.0}),
        ("beam", {"into_mid": 1.0}),
        ("granitemoehybrid", {"mlp_out": "last"}),
        ("falcon_h1", {"attn_out": "last"}),
    ],
)
def test_what_is_forgotten_is_caught(family, forgotten):
    """A layer's scalar, a scaled skip connection, a writer beside another."""

    def fault(subject):
        told = TOLD[subject.layers[0]]
        changes = {
            name: Part(*(tuple(one[-1:]) for one in getattr(told, name))) if change == "last" else change
            for name, change in forgotten.items()
        }
        TOLD[subject.layers[0]] = told._replace(**changes)

    caught(family, PARTS, fault)


def test_a_forgotten_addend_is_named():
    def fault(subject):
        TOLD[subject.layers[0]] = TOLD[subject.layers[0]]._replace(beside_out=Part())

    assert "post_per_layer_input_norm" in caught("gemma4_text", PARTS, fault)


def test_a_layers_own_sum_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(block_sums, "_as_named", lambda layer, parts: True)
    caught("minicpm3", PARTS, lambda subject: None)


def test_a_measured_logit_scale_is_forgotten():
    subject = Subject(build("falcon_h1"))
    del head.LOGIT_SCALES[subject.model]
    subject.unembed = head.unembedding(subject.model)
    with pytest.raises(SubjectError, match="the last lens equals the logits fails"):
        subject.check()


def test_an_indexers_choice_is_ignored(monkeypatch):
    def all_keys(chosen, keys):
        return torch.ones(*chosen.shape[:2], keys, dtype=torch.bool)[:, None]

    monkeypatch.setattr(chosen_keys, "by_number", all_keys)
    caught("deepseek_v32", "patterns equal eager attention's", lambda subject: None)


def test_a_chosen_key_alone_is_read():
    """Three keys a query; a knockout of one of them moves its row, and no edit adds one that was not chosen."""
    given, subject = prompts("none"), Subject(build("deepseek_v32"))
    pattern = capture(subject, given, ["pattern"])["pattern", 1]
    assert ((pattern > 0).sum(-1) <= 3).all()
    assert ((pattern > 0).sum(-1)[:, :, 3:] == 3).all()


def test_chosen_blocks_are_masked_as_the_family_masks_them():
    blocks, places = (
        torch.tensor([[[[0, -1]] * 2 + [[0, 1]] * 3, [[0, -1]] * 2 + [[1, -1]] * 3]]),
        torch.arange(5)[None],
    )
    own = SimpleNamespace(block_size=2, config=SimpleNamespace(num_attention_heads=4))
    mask = MiniMaxM3VLIndexer.build_block_mask(own, blocks, None, 5, torch.float32, blocks.device, places)
    found = chosen_keys.by_block(blocks, 2, 4, 5) & torch.ones(5, 5, dtype=torch.bool).tril()
    assert torch.equal(found, mask == 0)


def test_attention_that_is_called_twice_is_refused_by_name():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("diffllama", **SHAPE))
    with pytest.raises(SubjectError, match="diffllama cannot be opened: layer 0 calls its attention 2 times"):
        Subject(model)


def test_heads_by_layer_have_their_own_shapes():
    given, subject = prompts("left"), Subject(build("laguna"))
    cache = capture(subject, given, ["z", "pattern"])
    assert [cache["z", i].shape[2] for i in range(3)] == [4, 8, 4]
    assert [len(subject.W_O(i)) for i in range(3)] == [4, 8, 4]
    mask = given["attention_mask"].bool()
    measure = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
    sweep = patch_sweep(subject, given, prompts("left", seed=1), "z", positions=mask, measure=measure)
    assert sweep.values.shape[:2] == (3, 8)
    assert torch.equal(sweep.values.isnan().any(-1).sum(1), torch.tensor([4, 0, 4]))


def test_widths_by_layer_have_their_own_shapes():
    given, subject = prompts("left"), Subject(build("gemma4_text"))
    cache = capture(subject, given, ["z", "rot_k", "v", "pattern"])
    assert [cache["z", i].shape[2:] for i in range(3)] == [(4, 8), (4, 16), (4, 16)]
    assert [cache["rot_k", i].shape[2:] for i in range(3)] == [(2, 8), (1, 16), (1, 16)]
    assert cache["pattern", 2].shape == (3, 4, 9, 9)  # of shared keys too, whatever logits are asked for


def test_several_residual_streams_are_refused_by_name():
    more = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "num_kv_shared_layers": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3n_text", **SHAPE | more))
    with pytest.raises(SubjectError, match="gemma3n_text cannot be opened: layer 0 keeps 4 residual streams"):
        Subject(model)
