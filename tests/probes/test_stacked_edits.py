"""Edits inside edits: one stack that every thread, observer, sweep, run and cache sees."""

from __future__ import annotations

from functools import partial
from threading import Thread

import pytest
import torch
from crosslens import Subject, ablation_sweep, cached, capture, knockout_sweep, patch_sweep, record
from crosslens.data.errors import UserError
from crosslens.probes.intervene.attribution import attribution_sweep
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.intervening import full_forward
from crosslens.probes.intervene.interventions import Knockout, Patch, PatchQKV
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.paths import Receiver, path_sweep
from crosslens.probes.intervene.positions import affected_positions
from crosslens.probes.intervene.proofs import obstacle_of
from crosslens.probes.intervene.readout import read_variants
from crosslens.probes.intervene.sweep import variant_sweep
from crosslens.probes.model import edits
from crosslens.probes.observe import tracing as trace
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.sites import WRITABLE

from ..helpers import by_hand, tiny
from ..helpers.families import build, prompts
from .test_sweep import whole_logits

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
ZEROS = {(1, "z"): torch.zeros_like}


def scaled(*factors):
    """The four heads of a layer times these."""
    return lambda call: call.edited(head_scale=torch.tensor(factors)[None, :, None])


def subject_and_prompts():
    return Subject(build("llama"), tiny.tokenizer(), name="tiny-llama"), prompts("left")


def last_of(given):
    last = torch.zeros_like(given["attention_mask"], dtype=torch.bool)
    last[:, -1] = True
    return last


# --- observers and edits


def test_an_inner_observer_sees_what_outer_rewrites_made():
    subject, given = subject_and_prompts()
    clean = capture(subject, given, ["z", "resid_post"])
    with tracing(subject, rewrites=ZEROS):
        found = capture(subject, given, ["z", "resid_post"])
    assert not found["blocks.1.attn.hook_z"].any()
    assert float((found["blocks.1.hook_resid_post"] - clean["blocks.1.hook_resid_post"]).abs().max()) > 1e-3


@pytest.mark.parametrize("site", ["z", "resid_pre", "attn_out", "mlp_out"])
def test_an_outer_observer_sees_what_inner_rewrites_made(site):
    subject, given = subject_and_prompts()
    order, seen = [], {}

    def outer(layer):
        order.append(("outer", layer.index))
        seen[layer.index] = getattr(layer, site)

    rewrites = {(1, site): lambda tensor: tensor + 1}
    with tracing(subject, outer), tracing(subject, lambda layer: order.append(("inner", layer.index)), None, rewrites):
        subject.forward(given)
    assert order == [(who, layer) for layer in range(3) for who in ("inner", "outer")], "the innermost first"
    clean = capture(subject, given, [site])
    name = next(name for name in clean if name.startswith("blocks.1."))
    torch.testing.assert_close(seen[1], clean[name] + 1)


@pytest.mark.parametrize("site", ["z", "resid_pre", "attn_out", "mlp_out"])
def test_rewrites_act_from_the_outermost_inwards(site):
    subject, given = subject_and_prompts()
    place = (1, site)
    with tracing(subject, rewrites={place: lambda t: t + 1}), tracing(subject, rewrites={place: lambda t: t * 2}):
        nested = subject.last_logits(given)
    with tracing(subject, rewrites={place: lambda t: (t + 1) * 2}):
        torch.testing.assert_close(nested, subject.last_logits(given))
    with tracing(subject, rewrites={place: lambda t: t * 2 + 1}):
        assert float((nested - subject.last_logits(given)).abs().max()) > 1e-4


def test_head_scales_multiply():
    subject, given = subject_and_prompts()
    with (
        tracing(subject, edits={1: scaled(2.0, 1.0, 0.0, 1.0)}),
        tracing(subject, edits={1: scaled(3.0, 0.5, 1.0, 1.0)}),
    ):
        nested = subject.last_logits(given)
    with tracing(subject, edits={1: scaled(6.0, 0.5, 0.0, 1.0)}):
        torch.testing.assert_close(nested, subject.last_logits(given))


@pytest.mark.parametrize("rows", [(None, None), ([7], None), ([7], [8]), ([7, 8], [8])])
def test_pattern_edits_follow_one_another(rows):
    """Each acts on the rows it may change, of what the one before left."""
    subject, given = subject_and_prompts()

    def edit(mine, change):
        own = None if mine is None else torch.tensor([mine] * 3)

        def acting(pattern, numbers, part):
            here = torch.isin(numbers, torch.tensor([*range(9)] if mine is None else mine))
            return torch.where(here[:, None, :, None], change(pattern), pattern)

        return lambda call: call.edited(pattern_edit=acting, edited_rows=own)

    def halve(pattern):
        return pattern / 2

    def square(pattern):
        return pattern.square()

    seen, plain = [], []
    with tracing(subject, lambda layer: plain.append((layer.pattern(), layer.z, layer.v))):
        subject.forward(given)
    with (
        tracing(subject, edits={1: edit(rows[0], halve)}),
        tracing(subject, edits={1: edit(rows[1], square)}),
        tracing(subject, lambda layer: seen.append((layer.pattern(), layer.z))),
    ):
        subject.forward(given)
    expected = plain[1][0].clone()
    for mine, change in zip(rows, (halve, square), strict=True):
        where = slice(None) if mine is None else mine
        expected[:, :, where] = change(expected[:, :, where])
    torch.testing.assert_close(seen[1][0], expected)
    z = torch.einsum("bhqk,bkhd->bqhd", expected, plain[1][2].repeat_interleave(2, 2))
    torch.testing.assert_close(seen[1][1], z, atol=1e-5, rtol=1e-4)


def test_a_thread_inside_the_block_is_edited():
    subject, given = subject_and_prompts()
    said = {}

    def say(name):
        said[name] = subject.model.generate(
            **given, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        ).logits

    say("plain")
    with tracing(subject, edits={1: scaled(0.0, 0.0, 3.0, 0.0)}):
        say("here")
        thread = Thread(target=say, args=("thread",))
        thread.start()
        thread.join()
    assert torch.equal(torch.stack(said["thread"]), torch.stack(said["here"]))
    assert float((said["thread"][0] - said["plain"][0]).abs().max()) > 1e-3


def test_nothing_stays_behind():
    subject, given = subject_and_prompts()
    clean = subject.last_logits(given)

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tracing(subject, fail), tracing(subject, rewrites={(2, "z"): fail}):
        subject.forward(given)
    assert not subject.active_edits
    assert not edits.OPEN
    assert not trace._HOOKS
    assert not trace.ACTING
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())
    assert torch.equal(subject.last_logits(given), clean)


def test_observers_are_no_edits():
    subject, _ = subject_and_prompts()
    with tracing(subject, lambda layer: None):
        assert not subject.active_edits
        with tracing(subject, edits={0: scaled(1.0, 1.0, 1.0, 1.0)}):
            assert len(subject.active_edits) == 1
            assert Subject(subject.model).active_edits == subject.active_edits, "another subject of the same model"
    assert not subject.active_edits


# --- sweeps


def without(edges, call):
    return call.edited(mask=call.allowed() & ~edges)


def acting(kind):
    """Edits that a replay of some rows could not make: of heads, of patterns, of states by position."""
    if kind == "heads":
        return {"edits": {1: scaled(0.2, 1.0, 3.0, 1.0), 2: scaled(0.0, 1.0, 1.0, 2.0)}}
    if kind == "patterns":
        return {"edits": {1: lambda call: call.edited(pattern_edit=lambda p, rows, part: p.square())}}
    return {"rewrites": {(1, "resid_pre"): lambda t: t * torch.linspace(0.5, 2, t.shape[1])[:, None]}}


@pytest.mark.parametrize("kind", ["heads", "patterns", "states"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_sweep_inside_an_edit_sweeps_the_edited_model(family, kind):
    """Every cell equals one whole forward with the outer edit and the patch in it."""
    given, other = by_hand.inputs(family, "left"), by_hand.inputs(family, "left", seed=1)
    subject, last = Subject(by_hand.build(family)), last_of(given)
    with tracing(subject, **acting(kind)):
        sweep = patch_sweep(subject, given, other, "z", positions=last, measure=whole_logits)
        gone = ablation_sweep(subject, given, "mlp_out", positions=last, measure=whole_logits)
        near = last.roll(-1, 1)
        cut = knockout_sweep(subject, given, near, last, window=1, measure=whole_logits)
        donor = capture(subject, other, ["z"])
        clean = subject.last_logits(given)
        for layer in range(3):
            for head in range(4):

                def put(z, layer=layer, head=head):
                    z = z.clone()
                    z[:, -1, head] = donor[f"blocks.{layer}.attn.hook_z"][:, -1, head]
                    return z

                with tracing(subject, rewrites={(layer, "z"): put}):
                    expected = subject.last_logits(given)
                torch.testing.assert_close(sweep.values[layer, head], expected, atol=1e-4, rtol=1e-4)

            def drop(out):
                out = out.reshape(*last.shape, -1).clone()
                out[:, -1] = 0
                return out

            with tracing(subject, rewrites={(layer, "mlp_out"): drop}):
                torch.testing.assert_close(gone.values[layer], subject.last_logits(given), atol=1e-4, rtol=1e-4)
            edges = last[:, None, :, None] & near[:, None, None]
            with tracing(subject, edits={layer: partial(without, edges)}):
                torch.testing.assert_close(cut.values[layer], subject.last_logits(given), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sweep.clean, clean, atol=1e-4, rtol=1e-4)
    assert "edited" in sweep.notes[0]
    assert not patch_sweep(subject, given, other, "z", positions=last, measure=whole_logits).notes, "nothing is kept"


def test_paths_and_estimates_inside_an_edit():
    given, other = by_hand.inputs("llama", "left"), by_hand.inputs("llama", "left", seed=1)
    subject, last = Subject(by_hand.build("llama")), last_of(given)
    with tracing(subject, **acting("heads")):
        base, donor = record(subject, given, ["z"]), record(subject, other, ["z"])
        direct = path_sweep(subject, base, donor, measure=MEASURE)
        exact = patch_sweep(subject, base, donor, "z", positions=last, measure=MEASURE)
        torch.testing.assert_close(direct.values[2], exact.values[2], atol=1e-4, rtol=1e-4)  # the last layer's: direct
        assert not (direct.values[:2] - exact.values[:2]).abs().max() < 1e-3
        found = attribution_sweep(subject, base, donor, "z", positions=base.mask, measure=MEASURE, steps=1)
        assert float(found.effects[:, 2, 0].abs().max()) == 0, "its factor is 0"
        assert float(found.effects.abs().max()) > 0
        with pytest.raises(UserError, match="it is edited; only paths to the final residual"):
            path_sweep(subject, base, donor, [Receiver(1, 0, "q")], measure=MEASURE)
        with pytest.raises(UserError, match="edge attribution needs"):
            edge_attribution(subject, given, other, measure=MEASURE)


def test_recordings_belong_to_the_edits_they_were_made_in():
    subject, given = subject_and_prompts()
    last = last_of(given)
    sweep = {"site": "z", "positions": last, "measure": whole_logits}
    clean = record(subject, given, ["z"])
    with tracing(subject, **acting("heads")):
        edited = record(subject, given, ["z"])
        assert obstacle_of(edited)
        with pytest.raises(UserError, match="inside the same block"):
            ablation_sweep(subject, clean, **sweep)
        with tracing(subject, **acting("states")), pytest.raises(UserError, match="inside the same block"):
            ablation_sweep(subject, edited, **sweep)
    with pytest.raises(UserError, match="inside the same block") as caught:
        ablation_sweep(subject, edited, **sweep)
    assert "\n" not in str(caught.value)
    assert "_replay_proofs" not in vars(subject)
    assert not ablation_sweep(subject, clean, **sweep).notes


def test_replays_are_nobody_elses_forwards():
    """An observer around a sweep sees whole forwards alone, all of one shape."""
    subject, given = subject_and_prompts()
    base, shapes = record(subject, given, ["z", "mlp_out"]), set()
    obstacle_of(base)
    assert not base.obstacle

    def observe(layer):
        shapes.add((tuple(layer.resid_post.shape), tuple(layer.z.shape)))

    with tracing(subject, observe):
        ablation_sweep(subject, base, "mlp_out", positions=base.final, measure=whole_logits)
        assert not shapes, "replayed alone"
        other = record(subject, prompts("left", seed=1), ["z"])
        path_sweep(subject, base, other, [Receiver(2, 0, "q")], measure=MEASURE)
    assert shapes == {((3, 9, 32), (3, 9, 4, 8))}


# --- rows without keys, and what heads hear


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_a_row_that_is_left_without_keys_reads_nothing(family):
    given = by_hand.inputs(family, "none")
    subject = Subject(by_hand.build(family))
    base = record(subject, given)
    first = torch.zeros_like(base.mask)
    first[:, 0] = True
    variant = {layer: (Knockout(first, first),) for layer in (0, 1)}
    found = variant_sweep(base, [variant], first, measure=whole_logits)
    expected = subject.unembed(subject.norm(full_forward(base, variant)))
    torch.testing.assert_close(found.values[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["q", "k", "v"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_what_a_head_hears_is_a_variant_too(family, part):
    """Proved like others, replayed or in whole forwards, and equal to the forward made by hand."""
    given, other = by_hand.inputs(family, "left"), by_hand.inputs(family, "left", seed=1)
    subject = Subject(by_hand.build(family))
    base, donor = record(subject, given), record(subject, other)
    rows = affected_positions(base, base.mask)
    calls = []
    with tracing(subject, lambda layer: calls.append(layer.attention)):
        subject.forward(other)
    heard = {"q": calls[1].query, "k": calls[1].key, "v": calls[1].value}[part]
    heard = heard.repeat_interleave(4 // heard.shape[1], 1)[:, 2]
    variant = {1: (PatchQKV(part, 2, base.mask, rows.take(heard), rows),)}
    assert donor.mask.equal(base.mask)
    found = variant_sweep(base, [variant], base.mask, measure=whole_logits)

    def reads(query, key, value):
        own = {"q": query.clone(), "k": key.clone(), "v": value.clone()}
        where = base.mask[..., None]
        own[part][:, 2] = torch.where(where, heard, own[part][:, 2])
        return own["q"], own["k"], own["v"]

    expected = by_hand.at_last(by_hand.logits(family, given, reads={1: reads}), given)
    torch.testing.assert_close(found.values[0], expected, atol=1e-3, rtol=1e-3)
    base.obstacle = subject.__dict__["_replay_proofs"][False] = "whole forwards are asked for"
    slow = variant_sweep(base, [variant], base.mask, measure=whole_logits)
    assert slow.notes
    torch.testing.assert_close(slow.values, found.values, atol=1e-4, rtol=1e-3)
    assert len(read_variants(base, rows, [variant, variant], whole_logits, 2**30)) == 2


# --- sites


@pytest.mark.parametrize("site", ["resid", "pattern", "v", "mlp-out"])
def test_an_unknown_site_is_an_error_everywhere(site):
    subject, given = subject_and_prompts()
    other, known = prompts("left", seed=1), ", ".join(WRITABLE)
    last = last_of(given)
    asked = {"positions": last, "measure": whole_logits}
    ways = [
        lambda: tracing(subject, rewrites={(1, site): torch.zeros_like}).__enter__(),
        lambda: record(subject, given, [site]),
        lambda: Patch(site, last, torch.zeros(1)),
        lambda: patch_sweep(subject, given, other, site, **asked),
        lambda: ablation_sweep(subject, given, site, **asked),
        lambda: attribution_sweep(subject, given, other, site, **asked),
    ]
    for way in ways:
        with pytest.raises(UserError, match=f"{site}.*{known}"):
            way()
    assert not subject.active_edits


def test_an_unknown_layer_or_part_is_an_error():
    subject, given = subject_and_prompts()
    base, last = record(subject, given), last_of(given)
    for wrong in (3, -1, "1"):
        with pytest.raises(UserError, match="0…2"), tracing(subject, edits={wrong: lambda call: call}):
            pass
        with pytest.raises(UserError, match="0…2"), tracing(subject, rewrites={(wrong, "z"): torch.zeros_like}):
            pass
    with pytest.raises(UserError, match="no layer 3"):
        variant_sweep(base, [{3: (Knockout(last, last.roll(-1, 1)),)}], last, measure=whole_logits)
    with pytest.raises(UserError, match="'z': 'q', 'k' or 'v'"):
        PatchQKV("z", 0, last, torch.zeros(1))


# --- runs, caches, weights


def test_runs_caches_and_checks_refuse_an_edited_model(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    subject = tiny.subject()
    ways = [
        lambda: cached(subject, tiny.task(), limit=4),
        lambda: run(subject, tiny.task(), {}, Settings(out=tmp_path / "runs")),
        subject.check,
    ]
    for asked in ({"edits": {1: scaled(1.0, 0.0, 1.0, 1.0)}}, {"rewrites": ZEROS}):
        for way in ways:
            with tracing(subject, **asked), pytest.raises(UserError, match=r"as it is.*close its block") as caught:
                way()
            assert "\n" not in str(caught.value)
    assert not [*tmp_path.rglob("*.safetensors")]
    with tracing(subject, lambda layer: None):
        cached(subject, tiny.task(), limit=4)  # an observer changes nothing


@pytest.mark.parametrize("how", ["no_grad", "data", "one number", "another tensor"])
def test_changed_weights_have_another_fingerprint(tmp_path, monkeypatch, how):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path))
    subject = tiny.subject()
    before, kept = subject.fingerprint, cached(subject, tiny.task(), limit=4)
    assert subject.fingerprint == before == tiny.subject().fingerprint
    projection = subject.layers[1].mlp.down_proj
    with torch.no_grad():
        if how == "no_grad":
            projection.weight.zero_()
        elif how == "data":
            projection.weight.data.zero_()
        elif how == "one number":
            projection.weight.data[3, 5] += 1e-3
        else:
            projection.weight = torch.nn.Parameter(projection.weight * 2)
    assert subject.fingerprint != before
    changed = cached(subject, tiny.task(), limit=4)
    assert changed.directory != kept.directory
    assert not torch.equal(changed["resid_pre"], kept["resid_pre"])


def test_the_weights_are_hashed_once(monkeypatch):
    subject, hashed = tiny.subject(), []
    from crosslens.probes.model import subject as module

    monkeypatch.setattr(module, "weights_fingerprint", lambda model: hashed.append(model) or "hash")
    assert [subject.fingerprint for _ in range(3)] == ["hash"] * 3
    assert len(hashed) == 1


@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_what_is_captured_holds_nothing_else(family):
    """Queries, keys and values of one projection are views of it."""
    subject = Subject(build(family))
    given = prompts("left")
    base = record(subject, given)
    tensors = [*capture(subject, given, ["v", "z", "rot_k"]).values(), base.layers[1].value, base.layers[1].key]
    for tensor in tensors:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
