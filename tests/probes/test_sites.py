"""Every site of the table, read or rewritten, equals plain hooks on Hugging Face's eager decoders and vision towers."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import UserError
from crosslens.probes.observe.capture import parse_site
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.activations import cached
from crosslens.probes.sites import SITES, WRITABLE, SiteError, markdown, site

from ..helpers import by_hand, families, tiny, vision
from ..helpers.site_errors import lacking, read_errors, rewrite_errors
from ..helpers.sites_by_hand import FUSED_HEADS, families_of, modules
from .test_family_table import FILE

STACKS = [(family, stack) for stack in ("decoder", "vision") for family in families_of(stack)]
TOLERANCE = 1e-5


def lacking_by_hand(family: str, stack: str) -> set[str]:
    """The sites that a stack does not have, as the modules written down by hand say."""
    own = modules(family, stack)
    lacks = {name for name in ("mlp_pre", "mlp_pre_linear", "mlp_post") if name not in own}
    fused = {"q", "k"} if (family, stack) in FUSED_HEADS else set()
    return lacks | {"beside_out"} | fused | (set() if "mid" in own else {"resid_mid"})


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_every_site_equals_plain_hooks(family, stack):
    errors = read_errors(family, stack, by_hand.inputs(family, "left"))
    assert set(SITES) - set(errors) == lacking_by_hand(family, stack)
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_a_rewrite_equals_the_same_edit_by_hand(family, stack):
    errors = rewrite_errors(family, stack, by_hand.inputs(family, "left"))
    assert set(errors) == set(WRITABLE) - lacking_by_hand(family, stack)
    for name, (error, effect, still) in errors.items():
        assert error <= 3 * TOLERANCE, name  # an edit may leave fewer digits
        assert effect > 1e-3, name
        assert still, name


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_sites_that_a_family_lacks_are_refused_by_name(family, stack):
    given, subject = by_hand.inputs(family, "none"), Subject(by_hand.build(family))
    prefix = subject.stack(stack).prefix
    for name in lacking(subject, stack):
        with pytest.raises(SiteError, match=name):
            capture(subject, given, [prefix + name])
        if SITES[name].writable:
            with pytest.raises(SiteError, match=name), tracing(subject, rewrites={(0, name): abs}, stack=stack):
                pytest.fail("the block was opened")


# --- rewrites


def test_a_rewritten_resid_post_is_what_the_next_layer_reads():
    subject, given = Subject(families.build("llama")), families.prompts("left")
    with tracing(subject, rewrites={(1, "resid_post"): torch.neg}):
        written = subject.forward(given, keep=0)
        cache = capture(subject, given, ["resid_pre", "resid_post"])
    with tracing(subject, rewrites={(2, "resid_pre"): torch.neg}):
        assert torch.equal(subject.forward(given, keep=0), written)
    assert torch.equal(cache["resid_post", 1], cache["resid_pre", 2])


def test_rewrites_of_neighbouring_sites_follow_each_other():
    """attn_out, then resid_mid behind it; of each, the outer block before the inner one."""
    subject, given = Subject(families.build("granite")), families.prompts("none")
    double = {(1, "resid_mid"): lambda mid: 2 * mid}
    with tracing(subject, rewrites={(1, "attn_out"): torch.zeros_like}), tracing(subject, rewrites=double):
        cache = capture(subject, given, ["resid_pre", "resid_mid", "attn_out"])
    torch.testing.assert_close(cache["resid_mid", 1], 2 * cache["resid_pre", 1])
    with (
        tracing(subject, rewrites={(1, "mlp_post"): lambda neurons: neurons + 1}),
        tracing(subject, rewrites={(1, "mlp_post"): lambda neurons: neurons * 3}),
    ):
        found = capture(subject, given, ["mlp_post"])["mlp_post", 1]
    torch.testing.assert_close(found, (capture(subject, given, ["mlp_post"])["mlp_post", 1] + 1) * 3)


# --- the vision tower


def test_a_tower_is_itself_again_behind_its_blocks():
    model = vision.build("qwen2_5_vl")
    subject, given = Subject(model), vision.inputs(model, "left")
    before, own = subject.forward(given, keep=0), model.model.visual.config._attn_implementation
    with tracing(subject, stack="vision"), tracing(subject, edits={0: lambda call: call}, stack="vision"):
        assert subject.active_edits
        assert model.model.visual.config._attn_implementation != own
        inside = subject.forward(given, keep=0)
    assert model.model.visual.config._attn_implementation == own
    assert torch.equal(subject.forward(given, keep=0), before)
    torch.testing.assert_close(inside, before, rtol=1e-5, atol=1e-5)


def test_both_stacks_are_seen_in_one_forward():
    model = vision.build("llava")
    subject, given = Subject(model), vision.inputs(model, "left")
    forwards = []
    with subject.model.register_forward_pre_hook(lambda *_: forwards.append(1)):
        cache = capture(subject, given, ["z", "vision.z", "vision.blocks.1.mlp.hook_post"])
    assert len(forwards) == 1
    assert set(cache) == {
        *(f"blocks.{i}.attn.hook_z" for i in range(3)),
        *(f"vision.blocks.{i}.attn.hook_z" for i in range(2)),
        "vision.blocks.1.mlp.hook_post",
    }


def test_chosen_rows_of_a_packed_tower_equal_whole_maps():
    model = vision.build("qwen2_vl")
    subject, given = Subject(model), vision.inputs(model, "left")
    rows = torch.tensor([[3, 47, 20, 16]])
    whole = capture(subject, given, ["vision.pattern"])
    chosen = capture(subject, given, ["vision.pattern"], queries=rows)
    for name, pattern in whole.items():
        torch.testing.assert_close(chosen[name], pattern[:, :, rows[0]], rtol=0, atol=1e-6)
        assert not pattern[:, :, :16, 16:].any(), "no image reads another"
        torch.testing.assert_close(pattern.sum(-1), torch.ones(1, 2, 48))


def test_no_tower_and_no_image_are_one_clear_line():
    text, model = Subject(families.build("llama")), vision.build("llava")
    with pytest.raises(UserError, match="no stack 'vision'"):
        capture(text, families.prompts("none"), ["vision.z"])
    with pytest.raises(UserError, match="no stack 'tower'"), tracing(text, stack="tower"):
        pytest.fail("the block was opened")
    words = {name: vision.inputs(model, "none")[name][:, :2] for name in ("input_ids", "attention_mask")}
    with pytest.raises(UserError, match="hold no image"):
        capture(Subject(model), words, ["vision.z"])


# --- names


@pytest.mark.parametrize("name", ["resid", "blocks.3.attn.hook_z", "blocks.1.hook_z", "blocks.z", "vision."])
def test_an_unknown_site_is_an_error_that_lists_the_known(name):
    subject = Subject(vision.build("llava"))
    with pytest.raises(SiteError, match="unknown site.*" + ", ".join(SITES)):
        parse_site(subject, name)
    with pytest.raises(UserError, match=", ".join(SITES)):
        capture(subject, families.prompts("none"), [name])


def test_every_reader_of_the_table_lists_it():
    subject = tiny.subject()
    for way in (site, lambda name: cached(subject, tiny.task(), [name])):
        with pytest.raises(KeyError, match=", ".join(SITES)):
            way("resid")
    with pytest.raises(SiteError, match=", ".join(WRITABLE)), tracing(subject, rewrites={(0, "q"): abs}):
        pytest.fail("the block was opened")
    for name in ("vision.z", "pattern"):
        with pytest.raises(UserError):
            cached(subject, tiny.task(), [name])


def test_neurons_are_kept_like_any_site(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path))
    subject = tiny.subject()
    kept = cached(subject, tiny.task(), ["mlp_post"], limit=4)["mlp_post"]
    assert kept.shape == (4, 3, 48)
    with pytest.raises(SiteError, match=r"gpt2 has no mlp_pre_linear in layer 0"):
        cached(tiny.subject("gpt2"), tiny.task(), ["mlp_pre_linear"], limit=4)


def test_rows_of_the_table_have_names_and_hooks_of_their_own():
    assert len({row.hook for row in SITES.values()}) == len(SITES)
    assert all(site(row.hook) is row is site(name) for name, row in SITES.items())


def test_the_table_for_readers_is_this_one():
    assert markdown() in FILE.read_text("utf-8")


@pytest.mark.parametrize("name", SITES)
def test_every_row_names_a_proof_that_is_made(name, proofs):
    assert SITES[name].proof in proofs


@pytest.fixture(scope="module")
def proofs():
    return set(Subject(families.build("llama")).check()["check"])


# --- what is held prints itself in one line


def test_a_capture_answers_to_short_names_and_prints_one_line():
    subject, given = Subject(families.build("llama")), families.prompts("left")
    cache = capture(subject, given, ["z", "blocks.1.mlp.hook_post"])
    assert cache["z", 2] is cache["blocks.2.attn.hook_z"]
    z, neurons = "attn.hook_z × 3 layers [3, 9, 4, 8]", "mlp.hook_post × 1 layers [3, 9, 48]"
    assert repr(cache) == f"ActivationCache({z} float32 cpu; {neurons} float32 cpu)"
    with pytest.raises(KeyError, match=r"'blocks\.0\.mlp\.hook_post' was not captured: ActivationCache"):
        cache["mlp_post", 0]
    with pytest.raises(SiteError, match="unknown site 'zz'"):
        cache["zz", 0]


def test_subject_stack_and_batch_print_one_line():
    subject = tiny.subject()
    assert repr(subject) == "Subject(tiny-llama: 3 layers × 4 heads, float32, cpu)"
    tower = "Stack(vision of clip_vision_model: 2 layers × 2 heads × 8, d_model 16, float32, cpu)"
    assert repr(Subject(vision.build("llava")).vision) == tower
    assert "reads images with CLIPVisionModel" in repr(Subject(vision.build("llava")))
    batch = subject.batch(tiny.examples(4, tokenizer=subject.tokenizer))
    text = f"Batch(4 examples × {batch.roles.shape[1]} positions; roles special, text; marks subject)"
    assert repr(batch) == text
