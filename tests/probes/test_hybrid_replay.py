"""Layers with a state of all earlier rows, replayed on all of them: exact, proved, within the budget of a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.probes.intervene.attribution import attribution_sweep, attribution_sweeps
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.intervening import full_forward
from crosslens.probes.intervene.interventions import Add, Knockout, Patch, PatchQKV, Scale
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.paths import path_sweep
from crosslens.probes.intervene.positions import Positions, affected_positions
from crosslens.probes.intervene.proofs import obstacle_of
from crosslens.probes.intervene.readout import bytes_per_variant, read_variants
from crosslens.probes.intervene.recording import record
from crosslens.probes.intervene.replay import replay
from crosslens.probes.intervene.state_memory import state_bytes
from crosslens.probes.intervene.sweep import swept
from crosslens.probes.observe.gates import GateError

from ..helpers.families import HYBRID, SHAPE, build, prompts

BESIDE = {
    "falcon_h1": SHAPE | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
    | {"mamba_n_groups": 1, "mamba_chunk_size": 4},
}  # fmt: skip
FAMILIES = [*HYBRID, *BESIDE]
SITES = ("z", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post")
MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))


@pytest.fixture(autouse=True)
def _beside(monkeypatch):
    for family, config in BESIDE.items():
        monkeypatch.setitem(HYBRID, family, config)


def recorded(family, padding, sites=(), **dtype):
    """A subject's recordings of two sets of prompts of one layout."""
    subject = Subject(build(family).to(**dtype) if dtype else build(family))
    return [record(subject, prompts(padding, seed), sites) for seed in (0, 1)]


def place(mask, number):
    """One real position of each example, counted from the first."""
    return (mask.int().cumsum(1) == number + 1) & mask


def variants(base, donor):
    """Edits of every kind, in layers with attention and without, each at some rows."""
    last, second, d_head = base.final, place(base.mask, 1), base.layers[1].key.shape[-1]
    changed = [
        {0: (Patch("resid_pre", second, donor.layers[0].resid_pre),)},
        {0: (Patch("attn_out", second, donor.layers[0].site("attn_out")),)},
        {0: (Scale("mlp_out", last, 0.0),), 2: (Scale("attn_out", second, 2.0),)},
        {1: (Patch("z", last | second, donor.layers[1].site("z"), (2,)),)},
        {1: (Knockout(last | second, place(base.mask, 0)),)},
        {1: (Knockout(last, second, donor.layers[1]),)},
        {1: (PatchQKV("q", 1, last, 2 * donor.layers[1].resid_pre[..., :d_head]),)},
        {2: (Add("resid_post", last, torch.linspace(-1, 1, 32)),)},
    ]
    return changed, last | second


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replays_equal_whole_forwards(family, padding):
    """Stacked variants of all kinds at once: each is its own whole forward."""
    base, donor = recorded(family, padding, ("z", "attn_out"))
    assert obstacle_of(base) == ""
    changed, rows = variants(base, donor)
    found = replay(base, affected_positions(base, rows), changed)
    for variant, resid in zip(changed, found, strict=True):
        expected = full_forward(base, variant)
        torch.testing.assert_close(resid, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert not torch.allclose(expected, base.resid, rtol=1e-3), variant


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_whole_forwards(family):
    base, donor = recorded(family, "left", ("z", "attn_out", "mlp_out"))
    asked = {"positions": base.final | place(base.mask, 1), "measure": MEASURE, "steps": 2}
    sites = ("z", "attn_out", "mlp_out", "resid_pre")
    found = attribution_sweeps(base.subject, base, donor, sites, **asked)
    base.subject.__dict__["_replay_proofs"] = {}
    slow = attribution_sweeps(base.subject, replace(base, obstacle="whole forwards"), donor, sites, **asked)
    for site in sites:
        close = {"rtol": 1e-3, "atol": 1e-3, "equal_nan": True}
        torch.testing.assert_close(found[site].values, slow[site].values, **close)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_in_no_state(family, padding):
    """A padded batch gives what each prompt gives alone: the mixers of these families are told what padding is."""
    subject, given = Subject(build(family)), prompts(padding)
    logits, real = subject.last_logits(given), given["attention_mask"].bool()
    for row, ids, mask in zip(logits, given["input_ids"], real, strict=True):
        (alone,) = subject.last_logits({"input_ids": ids[mask][None]})
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("family", ["qwen3_next", "jamba", "lfm2", "falcon_h1"])
def test_a_state_of_the_wrong_rows_is_not_believed(family, monkeypatch):
    """A layer that is given its rows one position too late, or alone: the proof says so, and whole forwards are run."""
    base, donor = recorded(family, "right", ("attn_out",))
    put = Positions.put_each
    faults = {
        "late": lambda self, rows, stacked: put(self, rows.roll(1, 2), stacked),
        "alone": lambda self, rows, stacked: put(self, rows, torch.zeros_like(stacked)),
    }
    for name, fault in faults.items():
        monkeypatch.setattr(Positions, "put_each", fault)
        base.subject.__dict__.pop("_replay_proofs", None)
        assert "a replay differs from the forward" in obstacle_of(base), name
        wrong = Patch("attn_out", base.final, donor.layers[0].site("attn_out"))
        sweep = swept(base, dict.fromkeys(range(3), wrong), MEASURE)
        assert "whole forwards were run" in sweep.notes[0]
        logits = base.subject.unembed(base.subject.norm(full_forward(base, {2: (wrong,)})))
        torch.testing.assert_close(sweep.values[2], MEASURE(logits, torch.arange(3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bamba", "kimi_linear"])
def test_chunks_of_variants_keep_the_budget(family):
    """The state's tensors count, and the numbers do not depend on how many variants are stacked."""
    base, donor = recorded(family, "right", ("z", "attn_out"))
    changed, rows = variants(base, donor)
    where = affected_positions(base, rows)
    one = bytes_per_variant(base, where)
    assert one > state_bytes(base) > 3 * 4 * base.mask.numel() * 32
    together, apart = (read_variants(base, where, changed, MEASURE, budget) for budget in (100 * one, one))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3_next", "lfm2", "falcon_h1"])
def test_half_precision(family):
    base, _ = recorded(family, "left", dtype=torch.bfloat16)
    assert obstacle_of(base) == ""


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
@pytest.mark.parametrize("family", HYBRID)
def test_paths_hold_what_mixers_write(family, mlps):
    """The path from a head to the output is a whole forward in which all else, mixers too, says what it said."""
    base, donor = recorded(family, "left", ("z", "mlp_out"))
    found = path_sweep(base.subject, base, donor, measure=MEASURE, mlps=mlps)
    assert found.values[[0, 2]].isnan().all()
    held = {i: [Patch("attn_out", base.mask, base.layers[i].mixed)] for i in (0, 2)}
    held[1] = [Patch("z", base.mask, base.layers[1].site("z")), Patch("z", base.mask, donor.layers[1].site("z"), (2,))]
    if mlps == "frozen":
        held = {i: [*held[i], Patch("mlp_out", base.mask, base.layers[i].site("mlp_out"))] for i in held}
    logits = base.subject.unembed(base.subject.norm(full_forward(base, held)))
    torch.testing.assert_close(found.values[1, 2], MEASURE(logits, torch.arange(3)), rtol=1e-4, atol=1e-4)
    assert (found.values[1, 2] - found.clean).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["olmo_hybrid", "lfm2", "bamba", "jamba", "kimi_linear"])
def test_edges_of_mixers_complete_the_gradient(family):
    """What all readers hear of the embeddings is the whole gradient there: a mixer is a reader like heads and MLPs."""
    base, donor = recorded(family, "right", ("z", "mlp_out"))
    edges = edge_attribution(base.subject, base, donor, measure=MEASURE)
    assert [(r.kind, r.layer) for r in edges.readers if r.kind == "mixer"] == [("mixer", 0), ("mixer", 2)]
    whole = attribution_sweep(base.subject, base, donor, "resid_pre", positions=base.mask, measure=MEASURE)
    torch.testing.assert_close(edges.values[:, 0].sum(0), whole.effects[:, 0], rtol=1e-3, atol=1e-3)
    mixer = [w.kind for w in edges.writers].index("mixer")
    readers = [i for i, reader in enumerate(edges.readers) if reader.kind == "final"]
    assert edges.values[readers, mixer].abs().min() > 0


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text"])
def test_a_gate_that_reads_the_residual_has_no_edge(family):
    """Readers without the gate's would hear less than the whole gradient."""
    base, donor = recorded(family, "right", ("z", "mlp_out"))
    with pytest.raises(GateError, match=r"layer 1 .* a gate that reads the residual stream"):
        edge_attribution(base.subject, base, donor, measure=MEASURE)


def test_a_mixer_beside_heads_is_not_held_in_paths():
    base, donor = recorded("falcon_h1", "right", ("z", "mlp_out"))
    for sweep in (path_sweep, edge_attribution):
        with pytest.raises(UserError, match=r"another mixer stands beside the heads.*layer 0") as caught:
            sweep(base.subject, base, donor, measure=MEASURE)
        assert "\n" not in str(caught.value)
