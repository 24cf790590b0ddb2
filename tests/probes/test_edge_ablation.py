"""Circuits of edges run for real: all edges are the clean run, none the donor's, one lost edge is a patched path."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.probes.intervene.edge_ablation import Written, edge_sweep, mean_written, silence
from crosslens.probes.intervene.edge_graph import edge_owners, every_reader, every_writer, possible_edges, sharing
from crosslens.probes.intervene.interventions import Patch
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.paths import FINAL, Receiver, path_sweep
from crosslens.probes.intervene.recording import record
from crosslens.probes.intervene.sweep import variant_sweep

from ..helpers import by_hand, families
from .test_edge_rows import twins

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
SITES = ("z", "mlp_out")
NORMED = ("gemma2", "olmo2")  # a norm over all heads: each run's own scale is held
HYBRIDS = ["qwen3_next", "bamba", "olmo_hybrid"]  # their first layer has no attention
PLAIN = ["llama", "gpt2", "gpt_neox", "gemma2", "olmo2", "phi", "llava"]


def runs(family, padding="left", late=True):
    subject = Subject(by_hand.build(family))
    base, donor = (record(subject, one, SITES) for one in twins(family, padding, late))
    return subject, base, donor


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()) + 1e-6, rtol=1e-3)


@pytest.mark.parametrize(("padding", "late"), [("left", True), ("right", False)])
@pytest.mark.parametrize("family", [name for name in PLAIN if name in by_hand.FAMILIES])
def test_every_edge_is_the_clean_run_and_none_the_donors(family, padding, late):
    subject, base, donor = runs(family, padding, late)
    every = possible_edges(base)
    sweep = edge_sweep(subject, base, donor, [every, torch.ones_like(every), ~every], measure=MEASURE)
    close(sweep.values[0], sweep.clean)
    close(sweep.values[1], sweep.clean)
    close(sweep.values[2], sweep.donor)
    assert (sweep.clean - sweep.donor).abs().max() > 1e-3


@pytest.mark.parametrize("family", [name for name in PLAIN if name in by_hand.FAMILIES and name not in NORMED])
def test_one_lost_edge_is_the_path_patched_with_everything_else_frozen(family):
    subject, base, donor = runs(family)
    readers, writers, every = list(every_reader(base)), list(every_writer(base)), possible_edges(base)
    heads = [w for w, writer in enumerate(writers) if writer.kind == "head"]

    def lost(reader):
        circuits = []
        for w in heads:
            kept = every.clone()
            kept[reader, w] = False
            circuits.append(kept)
        return edge_sweep(subject, base, donor, circuits, measure=MEASURE).values

    exact = path_sweep(subject, base, donor, FINAL, measure=MEASURE, mlps="frozen")
    close(lost(len(readers) - 1), exact.values.flatten(0, 1))
    for reader, one in enumerate(readers):
        if one.kind == "q" and one.layer == len(subject.layers) - 1 and one.head == 1:
            into = path_sweep(subject, base, donor, [Receiver(one.layer, 1, "q")], measure=MEASURE, mlps="frozen")
            close(lost(reader), into.values.flatten(0, 1))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_all_edges_of_a_writer_lost_is_its_output_patched(family):
    subject, base, donor = runs(family)
    writers, every = list(every_writer(base)), possible_edges(base)
    for w, writer in enumerate(writers):
        if writer.kind == "embed":
            continue
        kept = every.clone()
        kept[:, w] = False
        site, heads = ("z", (writer.head,)) if writer.kind == "head" else ("mlp_out", None)
        patch = Patch(site, base.mask, donor.layers[writer.layer].site(site), heads)
        patched = variant_sweep(base, [{writer.layer: (patch,)}], base.mask, measure=MEASURE)
        close(edge_sweep(subject, base, donor, [kept], measure=MEASURE).values[0], patched.values[0])


def moved_left(given):
    """Left-padded prompts as right-padded ones."""
    mask = given["attention_mask"]
    order = torch.argsort(1 - mask, dim=1, stable=True)
    return {name: value.gather(1, order) for name, value in given.items()}


def test_batch_and_padding_change_nothing():
    subject = Subject(by_hand.build("llama"))
    left = twins("llama", "left")
    every = possible_edges(record(subject, left[0], SITES))
    some = every & (torch.rand(every.shape, generator=torch.Generator().manual_seed(0)) < 0.6)
    whole = edge_sweep(subject, *left, [some], measure=MEASURE).values
    close(edge_sweep(subject, *map(moved_left, left), [some], measure=MEASURE).values, whole)
    for i in range(3):
        one = ({name: value[i : i + 1] for name, value in given.items()} for given in left)
        measure = logit_difference(torch.tensor([3 + i]), torch.tensor([6 + i]))
        close(edge_sweep(subject, *one, [some], measure=measure).values, whole[:, i : i + 1])


def test_silence_and_means_speak_in_the_place_of_a_donor():
    subject, base, donor = runs("llama")
    writers, every = list(every_writer(base)), possible_edges(base)
    head = next(w for w, writer in enumerate(writers) if writer.kind == "head")
    kept = every.clone()
    kept[:, head] = False
    zeroed = edge_sweep(subject, base, silence(subject), [kept], measure=MEASURE).values[0]
    none = Patch("z", base.mask, torch.zeros_like(base.layers[0].site("z")), (0,))
    close(zeroed, variant_sweep(base, [{0: (none,)}], base.mask, measure=MEASURE).values[0])
    means = mean_written(subject, [base, donor])
    both = torch.cat([run.layers[0].site("z")[run.mask] for run in (base, donor)])
    patch = Patch("z", base.mask, both.mean(0).expand_as(base.layers[0].site("z")), (0,))
    found = edge_sweep(subject, base, means, [kept], measure=MEASURE).values[0]
    close(found, variant_sweep(base, [{0: (patch,)}], base.mask, measure=MEASURE).values[0])


def test_bad_input_is_named():
    subject, base, donor = runs("llama")
    every = possible_edges(base)
    with pytest.raises(UserError, match="readers"):
        edge_sweep(subject, base, donor, [every[1:]], measure=MEASURE)
    with pytest.raises(UserError, match="equals"):
        edge_sweep(subject, base, base, [every], measure=MEASURE)
    with pytest.raises(UserError, match="at least one run"):
        mean_written(subject, [])
    assert isinstance(silence(subject), Written)


@pytest.mark.parametrize("family", HYBRIDS)
def test_layers_without_attention_have_no_keys_to_share_and_are_refused_in_one_line(family):
    subject = Subject(families.build(family))
    base, donor = (record(subject, families.prompts("left", seed), SITES) for seed in (0, 1))
    attending = next(layer for layer in base.layers if layer.attends)
    assert sharing(base) == subject.n_heads // attending.value.shape[1]
    owners, readers, writers = edge_owners(base), list(every_reader(base)), list(every_writer(base))
    keys = [i for i, reader in enumerate(readers) if reader.kind == "k"]
    own = [sum(bool(owners[i, j]) for j in range(len(writers))) for i in keys]
    assert own == [sharing(base)] * len(keys)
    with pytest.raises(UserError, match=f"circuits of edges: .*{subject.family}"):
        edge_sweep(subject, base, donor, [possible_edges(base)], measure=MEASURE)
