"""Sweeps equal one eager forward per edit, on every family, with either padding."""

from __future__ import annotations

import weakref
from collections import Counter
from functools import partial

import hypothesis
import pytest
import torch
from crosslens import Subject, capture
from crosslens.data.errors import InterventionError, UserError
from crosslens.probes.intervene import measures, readout, replay_attention
from crosslens.probes.intervene import replay as replay_module
from crosslens.probes.intervene.intervening import full_forward
from crosslens.probes.intervene.interventions import Knockout
from crosslens.probes.intervene.knockout import knockout_sweep
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import ablation_sweep, causal_trace, patch_sweep
from crosslens.probes.intervene.positions import affected_positions
from crosslens.probes.intervene.proofs import obstacle_of, replay_error
from crosslens.probes.intervene.recording import record
from crosslens.probes.intervene.replay import replay
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ..helpers import by_hand, families, vision
from ..helpers.by_hand import FAMILIES

TOLERANCE = 1e-4


def whole_logits(logits, rows):
    return logits


def close(found, expected):
    """Within the tolerance of the range of the expected logits, example by example."""
    span = (expected.amax(-1) - expected.amin(-1)).clamp(min=1e-9)
    error = float(((found - expected).abs().amax(-1) / span).max())
    assert error <= TOLERANCE, f"{error:.2g}"


def flows(given):
    """Two flows as (source, target): words to the last position; image and words to words and to the image's end."""
    mask = given["attention_mask"].bool()
    place, n = mask.long().cumsum(1) - 1, mask.sum(1, keepdim=True)
    image = given["input_ids"] == vision.IMAGE if "pixel_values" in given else (place == 1) & mask
    end = image & (place == place.masked_fill(~image, 0).amax(1, keepdim=True))
    last = (place == n - 1) & mask
    near = (place >= n - 3) & (place < n - 1) & mask  # inside every sliding window
    return [(near, last), ((image & ~end) | near, (place >= n - 2) & mask | end)]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_window_of_every_flow(family, padding):
    given = by_hand.inputs(family, padding)
    subject = Subject(by_hand.build(family))
    for source, target in flows(given):
        sweep = knockout_sweep(subject, given, source, target, window=2, measure=whole_logits)
        assert not sweep.notes
        assert sweep.width.tolist() == [1, 2, 2]
        edges = target[:, :, None] & source[:, None]
        for layer in range(3):
            span = range(max(0, layer - 1), min(3, layer + 1))
            expected = by_hand.logits(family, given, masks=dict.fromkeys(span, edges))
            close(sweep.values[layer], by_hand.at_last(expected, given))
        close(sweep.clean, by_hand.at_last(by_hand.logits(family, given), given))


@pytest.mark.parametrize("family", FAMILIES)
def test_resampled_edges(family):
    given, other = by_hand.inputs(family, "left"), by_hand.inputs(family, "left", seed=1)
    subject = Subject(by_hand.build(family))
    donor = capture(subject, other, ["rot_k", "v"])
    source, target = flows(given)[0]
    sweep = knockout_sweep(subject, given, source, target, window=1, measure=whole_logits, replace=other)
    edges = target[:, :, None] & source[:, None]
    for layer in range(3):
        lent = tuple(donor[f"blocks.{layer}.attn.hook_{site}"].transpose(1, 2) for site in ("rot_k", "v"))
        expected = by_hand.logits(family, given, masks={layer: edges}, lent={layer: lent})
        close(sweep.values[layer], by_hand.at_last(expected, given))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_patched_head_at_the_last_position(family, padding):
    given, other = by_hand.inputs(family, padding), by_hand.inputs(family, padding, seed=1)
    subject = Subject(by_hand.build(family))
    donor = capture(subject, other, ["z"])
    mask = given["attention_mask"].bool()
    last = torch.zeros_like(mask).scatter(1, (mask * torch.arange(mask.shape[1])).argmax(1)[:, None], True)
    sweep = patch_sweep(subject, given, other, "z", positions=last, measure=whole_logits)
    close(sweep.donor, by_hand.at_last(by_hand.logits(family, other), other))
    for layer, head in ((0, 0), (1, 3), (2, 1)):

        def change(z, layer=layer, head=head):
            z = z.clone()
            z[:, :, head][last] = donor[f"blocks.{layer}.attn.hook_z"][:, :, head][last]
            return z

        close(sweep.values[layer, head], by_hand.at_last(by_hand.logits(family, given, z={layer: change}), given))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_a_patch_grid(family):
    given, other = by_hand.inputs(family, "right"), by_hand.inputs(family, "right", seed=1)
    subject = Subject(by_hand.build(family))
    donor = record(subject, other)
    sweep = patch_sweep(subject, given, donor, "resid_pre", positions="each", measure=whole_logits)
    mask = given["attention_mask"].bool()
    assert torch.equal(sweep.values.isnan().any(-1).any(0).T, ~mask)
    for layer in range(3):
        for position in range(mask.shape[1]):

            def change(found, values=donor.layers[layer].resid_pre, position=position):
                found = found.clone()
                found[:, position] = values[:, position]
                return found

            expected = by_hand.at_last(by_hand.logits(family, given, states={layer: change}), given)
            there = mask[:, position]
            close(sweep.values[layer, position][there], expected[there])


@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_patched_part(family, site):
    given, other = by_hand.inputs(family, "right"), by_hand.inputs(family, "right", seed=1)
    subject = Subject(by_hand.build(family))
    donor = record(subject, other, [site])
    where = given["attention_mask"].bool() & (torch.arange(given["input_ids"].shape[1]) % 2 == 0)
    sweep = patch_sweep(subject, given, donor, site, positions=where, measure=whole_logits)
    for layer in range(3):
        values = donor.layers[layer].site(site)

        def change(found, values=values):
            return torch.where(where[..., None], values, found.reshape(values.shape)).reshape(found.shape)

        expected = by_hand.logits(family, given, outputs={(layer, site): change})
        close(sweep.values[layer], by_hand.at_last(expected, given))


@pytest.mark.parametrize("site", ["z", "attn_out", "mlp_out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ablations(family, site):
    given = by_hand.inputs(family, "left")
    subject = Subject(by_hand.build(family))
    everywhere = given["attention_mask"].bool()
    sweep = ablation_sweep(subject, given, site, positions=everywhere, measure=whole_logits)

    def change(found):
        out = found.clone()
        if site != "z":
            return torch.zeros_like(out).reshape(found.shape)
        out[:, :, 2] = 0
        return out

    where = {"z": {1: change}} if site == "z" else {"outputs": {(1, site): change}}
    expected = by_hand.at_last(by_hand.logits(family, given, **where), given)
    close(sweep.values[1, 2] if site == "z" else sweep.values[1], expected)


def test_layers_that_count_their_cache():
    """Llama 4's attention temperature depends on the absolute position: rows are a suffix, told its start."""
    torch.manual_seed(0)
    shape = families.TEXT["llama4_text"] | {"floor_scale": 2, "attn_scale": 1.0, "no_rope_layers": [1, 0, 0]}
    config = AutoConfig.for_model("llama4_text", **shape)
    subject = Subject(families.enliven(AutoModelForCausalLM.from_config(config)).eval())
    given = families.prompts("none", lengths=(7, 7, 7))
    assert subject.layers[1].self_attn.attn_temperature_tuning
    base = record(subject, given)
    assert replay_error(base) < 1e-5
    last = torch.zeros(3, 7, dtype=torch.bool)
    last[:, -1] = True
    variant = {1: (Knockout(last, last.roll(-2, 1)),)}
    torch.testing.assert_close(
        replay(base, affected_positions(base, last), [variant])[0], full_forward(base, variant), rtol=1e-4, atol=1e-4
    )


def test_what_a_replay_misses_is_run_whole(monkeypatch):
    """Image features added between layers, forgotten by the recording: seen by the proof, and never in the values."""
    given, other = by_hand.inputs("qwen3_vl", "right"), by_hand.inputs("qwen3_vl", "right", seed=1)
    mask = given["attention_mask"].bool()
    expected = patch_sweep(
        Subject(by_hand.build("qwen3_vl")), given, other, "resid_pre", positions=mask, measure=whole_logits
    )
    assert not expected.notes
    monkeypatch.setattr(torch, "equal", lambda *_: True)  # Nothing between the layers is noticed.
    found = patch_sweep(
        Subject(by_hand.build("qwen3_vl")), given, other, "resid_pre", positions=mask, measure=whole_logits
    )
    monkeypatch.undo()
    assert "whole forwards" in found.notes[0]
    close(found.values.flatten(0, 1), expected.values.flatten(0, 1))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(data=st.data())
def test_random_flows(data):
    """Random sources, targets, windows, lengths and families, resampled or not, against the hand-made forwards."""
    family = data.draw(st.sampled_from(["llama", "gpt2", "gemma2", "gpt_oss", "gemma3", "paligemma"]))
    padding = data.draw(st.sampled_from(["left", "right"]))
    lengths = tuple(data.draw(st.lists(st.integers(4, 8), min_size=2, max_size=3)))
    lengths = tuple(sorted(lengths, reverse=True))
    inputs = by_hand.inputs(family, padding, seed=data.draw(st.integers(0, 3)), lengths=lengths)
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    mask = inputs["attention_mask"].bool()
    source, target = ((torch.rand(mask.shape, generator=seed) < share) & mask for share in (0.3, 0.5))
    subject, window = Subject(by_hand.build(family)), data.draw(st.integers(1, 4))
    try:
        sweep = knockout_sweep(subject, inputs, source, target, window=window, measure=whole_logits)
    except InterventionError:
        hypothesis.assume(False)
    except UserError:
        return
    edges = target[:, :, None] & source[:, None]
    layer = data.draw(st.integers(0, 2))
    span = range(max(0, layer - window // 2), min(3, layer + (window + 1) // 2))
    expected = by_hand.logits(family, inputs, masks=dict.fromkeys(span, edges))
    close(sweep.values[layer], by_hand.at_last(expected, inputs))


def small(lengths=(8, 6, 5)):
    """A tiny Llama, its inputs, and a flow from the second position to the last."""
    given = families.prompts("right", lengths=lengths)
    mask = given["attention_mask"].bool()
    last = torch.zeros_like(mask).scatter(1, mask.sum(1, keepdim=True) - 1, True)
    source = torch.zeros_like(mask)
    source[:, 1] = True
    return Subject(families.build("llama")), given, source, last


def test_a_recording_stands_for_its_inputs():
    subject, given, source, last = small()
    passes = []
    handle = subject.layers[0].register_forward_pre_hook(lambda *_: passes.append(1))
    base = record(subject, given)
    assert len(passes) == 1
    first = knockout_sweep(subject, base, source, last, window=1, measure=whole_logits)
    handle.remove()
    again = knockout_sweep(subject, given, source, last, window=1, measure=whole_logits)
    assert torch.equal(first.values, again.values)


def test_a_recording_keeps_no_graph():
    subject, given, *_ = small()
    with torch.enable_grad():
        assert not record(subject, given).logits.requires_grad


def test_several_flows_at_once():
    subject, given, source, last = small()
    other = source.roll(1, 1)
    together = knockout_sweep(subject, given, torch.stack([source, other]), last, window=2, measure=whole_logits)
    for i, one in enumerate((source, other)):
        alone = knockout_sweep(subject, given, one, last, window=2, measure=whole_logits)
        torch.testing.assert_close(together.values[i], alone.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_direction_is_the_difference_of_two_logits(family):
    given, other = families.prompts("left"), families.prompts("left", seed=1)
    subject, measure = (
        Subject(families.build(family)),
        logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8])),
    )
    mask = given["attention_mask"].bool()
    through = patch_sweep(subject, given, other, "z", positions=mask, measure=measure)
    plain = patch_sweep(subject, given, other, "z", positions=mask, measure=lambda *a: measure(*a))
    torch.testing.assert_close(through.values, plain.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(through.clean, plain.clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("measure", ["probability", "kl"])
def test_shipped_measures(measure):
    subject, given, source, last = small()
    base = record(subject, given)
    ids = torch.tensor([3, 4, 5])
    read = measures.probability(ids) if measure == "probability" else measures.kl(base.logits)
    sweep = knockout_sweep(subject, base, source, last, window=1, measure=read)
    logits = knockout_sweep(subject, base, source, last, window=1, measure=whole_logits).values.log_softmax(-1)
    if measure == "probability":
        expected = logits.exp()[:, torch.arange(3), ids]
    else:
        clean = base.logits.log_softmax(-1)
        expected = (clean.exp() * (clean - logits)).sum(-1)
        assert float(sweep.clean.abs().max()) < 1e-5
    torch.testing.assert_close(sweep.values, expected, rtol=1e-4, atol=1e-6)


def test_a_small_budget_gives_the_same_in_smaller_chunks(monkeypatch):
    subject, given, _, last = small()
    other, sizes = families.prompts("right", seed=1, lengths=(8, 6, 5)), []
    base, donor = record(subject, given, ["z"]), record(subject, other, ["z"])
    one = readout.bytes_per_variant(base, affected_positions(base, last))

    def watched_replay(base, rows, variants):
        sizes.append(len(variants))
        return replay(base, rows, variants)

    monkeypatch.setattr(readout, "replay", watched_replay)
    big = patch_sweep(subject, base, donor, "z", positions=last, measure=whole_logits)
    assert sizes == [12]
    small_budget = patch_sweep(subject, base, donor, "z", positions=last, measure=whole_logits, budget=5 * one)
    assert sizes[1:] == [5, 5, 2]
    torch.testing.assert_close(big.values, small_budget.values, rtol=1e-5, atol=1e-5)


def long_llama():
    """Eight layers, for prompts of 200 tokens."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Subject(LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=8, **shape)))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made meanwhile that are still alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.holders = 0, 0, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor, tensor.untyped_storage())
        return made

    def _hold(self, tensor, storage):
        place, size = storage.data_ptr(), storage.nbytes()
        self.live += size * (self.holders[place] == 0)
        self.holders[place] += 1
        self.peak = max(self.peak, self.live)
        weakref.finalize(tensor, self._let_go, place, size)

    def _let_go(self, place, size):
        self.holders[place] -= 1
        self.live -= size * (self.holders[place] == 0)


@pytest.mark.parametrize(
    ("what", "variants"),
    [("heads at the last position", 12), ("heads at the last position", 24), ("windows of edges", 4)],
)
def test_peak_memory_stays_within_the_budget(what, variants, monkeypatch):
    """Bytes alive beside the recordings; with more room the same sweep takes more."""
    monkeypatch.setattr(replay_module, "keep_freed_memory", lambda: None)  # asks for a block that nothing touches
    subject = long_llama()
    ids = torch.randint(3, 60, (6, 200), generator=torch.Generator().manual_seed(0))
    mask, place = torch.ones_like(ids), torch.arange(200).expand(6, -1)
    base = record(subject, {"input_ids": ids, "attention_mask": mask}, ["z"])
    donor = record(subject, {"input_ids": ids.flip(1), "attention_mask": mask}, ["z"])
    measure = measures.logit_difference(torch.full((6,), 5), torch.full((6,), 6))

    def peak(budget):
        with LiveBytes() as bytes_:
            if what == "windows of edges":
                early, late = (place > 0) & (place < 150), place >= 150
                knockout_sweep(subject, base, early, late, window=3, measure=measure, budget=budget)
            else:
                last = place == 199
                patch_sweep(subject, base, donor, "z", positions=last, measure=measure, budget=budget)
        return bytes_.peak

    rows = affected_positions(base, place == 199 if what.startswith("heads") else place >= 150)
    obstacle_of(base)  # proved once per model, with a whole forward
    budget = variants * readout.bytes_per_variant(base, rows)
    assert peak(budget) <= budget
    assert peak(budget) < peak(2**30)


def test_causal_tracing_restores_the_clean_run():
    subject, given, _, _ = small()
    corrupt = families.prompts("right", seed=1, lengths=(8, 6, 5))
    corrupt["input_ids"] = torch.where(torch.arange(8) == 1, corrupt["input_ids"], given["input_ids"])
    trace = causal_trace(subject, given, corrupt, measure=whole_logits)
    # Restoring the one changed position where it enters gives the clean run; other positions change nothing there.
    close(trace.values[0, 1], trace.donor)
    close(trace.values[0, 3], trace.clean)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no source", "example 1 of the batch has no source"),
        ("no target", "example 2 of the batch has no target"),
        ("backwards", "nothing to knock out in example 0"),
        ("no key left", "no key left"),
        ("wrong shape", "the measure returned"),
        ("other lengths", "differ in length"),
        ("same donor", "nothing to patch"),
        ("unknown site", "cannot patch 'q'"),
        ("window", "at least one layer"),
    ],
)
def test_one_clear_line(what, message):
    subject, given, source, last = small()
    mask, read = given["attention_mask"].bool(), whole_logits
    other = families.prompts("right", lengths=(8, 7, 5)) if what == "other lengths" else given
    if what == "no source":
        source[1] = False
    if what == "no target":
        last[2] = False
    if what == "backwards":
        source, last = last, source
    if what == "no key left":
        source, last = mask, mask
    if what == "wrong shape":

        def read(logits, rows):
            return logits.sum()

    if what in ("other lengths", "same donor", "unknown site"):
        run = partial(patch_sweep, subject, given, other, "q" if what == "unknown site" else "z", positions=mask)
    else:
        run = partial(knockout_sweep, subject, given, source, last, window=int(what != "window"))
    with pytest.raises(UserError, match=message) as caught:
        run(measure=read)
    assert "\n" not in str(caught.value)


def test_an_edit_that_never_fires_is_noticed(monkeypatch):
    subject, given, source, last = small()
    monkeypatch.setattr(
        replay_attention, "_removed", lambda rows, n, cuts, columns, device: (torch.zeros(1, dtype=torch.bool),) * 2
    )
    subject.__dict__["_replay_proofs"] = {False: ""}
    with pytest.raises(InterventionError, match=r"llama.*attention knockout.*moves nothing"):
        knockout_sweep(subject, given, source, last, window=1, measure=whole_logits)


def test_an_identity_edit_that_acts_is_noticed(monkeypatch):
    subject, given, source, last = small()
    original = replay_attention._removed

    def only_cut(rows, n, cuts, columns, device):
        clean, own = original(rows, n, cuts, columns, device)
        for v, _ in cuts:
            clean[:, :, v, :, 0] = True
        return clean, own

    monkeypatch.setattr(replay_attention, "_removed", only_cut)
    subject.__dict__["_replay_proofs"] = {False: ""}
    with pytest.raises(InterventionError, match="identity edit moves"):
        knockout_sweep(subject, given, source, last, window=1, measure=whole_logits)


def test_variants_share_a_row_until_they_part():
    """Two that begin alike and a later one: a row in the first layer, three in the second; each as if it were alone."""
    subject, given, source, last = small()
    base = record(subject, given)
    cuts = [(Knockout(last, source),) for _ in range(2)]
    variants = [{0: cuts[0]}, {0: cuts[0], 1: cuts[1]}, {1: cuts[1]}]
    rows, sizes = affected_positions(base, last), {}

    def observe(layer, site, tensor):
        sizes[layer] = len(tensor)

    together = replay(base, rows, variants, observe)
    assert sizes == {0: 1, 1: 3}
    for variant, found in zip(variants, together, strict=True):
        torch.testing.assert_close(found, replay(base, rows, [variant])[0], rtol=1e-5, atol=1e-6)
