"""Edges along what writers write: the base's gradient at the base, and what patching a group does in sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.probes.intervene.edge_ablation import edge_sweep
from crosslens.probes.intervene.edge_attribution import SITES, edge_attribution
from crosslens.probes.intervene.edge_graph import every_reader, every_writer
from crosslens.probes.intervene.recording import record

from ..helpers import by_hand
from .test_edge_rows import MEASURE, assert_same, twins

FAMILIES = ("llama", "gpt2", "gpt_neox", "phi", "gemma2", "llava")


def recorded_twins(family, padding="left"):
    subject = Subject(by_hand.build(family))
    return subject, *(record(subject, one, SITES) for one in twins(family, padding, late=False))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_base_every_way_begins_alike(family, padding):
    subject, base, donor = recorded_twins(family, padding)
    ours = edge_attribution(subject, base, donor, measure=MEASURE, shares=[0.0], along="activations")
    assert_same(ours, edge_attribution(subject, base, donor, measure=MEASURE, shares=[0.0]))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_the_edges_of_a_group_add_up_to_what_patching_it_does(family):
    """The integral along a group's own way: its edges together are what the group's writers change, exactly."""
    subject, base, donor = recorded_twins(family)
    edges = edge_attribution(subject, base, donor, measure=MEASURE, steps=48, along="activations")
    readers, writers = list(every_reader(base)), list(every_writer(base))
    groups = sorted({(writer.layer, writer.kind) for writer in writers})
    inside = [torch.tensor([(w.layer, w.kind) == group for w in writers]) for group in groups]
    kept = [~mine[None].expand(len(readers), -1) for mine in inside]
    sweep = edge_sweep(subject, base, donor, kept, measure=MEASURE)
    for mine, patched in zip(inside, sweep.values, strict=True):
        estimate = edges.values[:, mine].nansum((0, 1))
        torch.testing.assert_close(estimate, (patched - sweep.clean).cpu(), atol=2e-4, rtol=2e-2)


def test_some_readers_are_those_of_all():
    subject, base, donor = recorded_twins("llama")
    whole = edge_attribution(subject, base, donor, measure=MEASURE, steps=2, along="activations")
    some = whole.readers[3::5]
    part = edge_attribution(subject, base, donor, measure=MEASURE, steps=2, readers=some, along="activations")
    torch.testing.assert_close(part.values, whole.values[3::5], equal_nan=True)


def test_an_unknown_way_and_a_family_that_is_not_replayed_are_told():
    subject, base, donor = recorded_twins("llama")
    with pytest.raises(UserError, match="edge attribution along neurons: one of inputs, activations"):
        edge_attribution(subject, base, donor, measure=MEASURE, along="neurons")
    with pytest.raises(UserError, match=r"along activations: .*whole forwards"):
        edge_attribution(subject, replace(base, obstacle="whole forwards"), donor, measure=MEASURE, along="activations")
