"""Edges read at the rows where twins part, one layer's graph at a time, equal those of one graph of whole forwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crosslens import Subject
from crosslens.probes.intervene import edge_slopes
from crosslens.probes.intervene import edge_sums as edges_file
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.edge_graph import Reader
from crosslens.probes.intervene.measures import logit_difference, probability
from crosslens.probes.intervene.recording import record

from ..helpers import by_hand

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
SITES = ("z", "mlp_out")


def twins(family, padding, late=True):
    """Twins that part at the last token but two, or at all tokens (and pictures)."""
    given = by_hand.inputs(family, padding)
    if not late:
        return given, by_hand.inputs(family, padding, seed=1)
    other = {name: value.clone() for name, value in given.items()}
    mask = given["attention_mask"]
    parting = (mask.cumsum(1) == mask.sum(1, keepdim=True) - 2) & mask.bool()
    other["input_ids"][parting] = (given["input_ids"][parting] + 7) % 50 + 1
    return given, other


def both_ways(family, padding, late, **asked):
    subject = Subject(by_hand.build(family))
    base, donor = (record(subject, one, SITES) for one in twins(family, padding, late))
    rows = edge_attribution(subject, base, donor, **asked)
    slow = edge_attribution(subject, replace(base, obstacle="whole forwards"), donor, **asked)
    return rows, slow


def assert_same(rows, slow):
    scale = float(slow.values.nan_to_num().abs().max())
    assert scale > 0
    assert (rows.readers, rows.writers) == (slow.readers, slow.writers)
    torch.testing.assert_close(rows.values, slow.values, atol=1e-5 * scale + 1e-8, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize(("padding", "late"), [("left", True), ("right", True), ("left", False)])
@pytest.mark.parametrize("family", by_hand.FAMILIES)
def test_rows_equal_whole_forwards(family, padding, late):
    assert_same(*both_ways(family, padding, late, measure=MEASURE, steps=2))


@pytest.mark.parametrize("family", ["llama", "gemma2", "llava"])
def test_so_do_some_readers_at_some_positions_and_other_measures(family):
    some = [Reader("v", 1, 1), Reader("mlp", 1, -1), Reader("final", 3, -1)]
    last = by_hand.inputs(family, "left")["attention_mask"].bool()
    last[:, :-1] = False
    measure = probability(torch.tensor([3, 4, 5]))
    assert_same(*both_ways(family, "left", True, measure=measure, readers=some, positions=last))


@pytest.mark.parametrize("budget", [1, 2**12])
def test_any_number_of_readers_at_once(monkeypatch, budget):
    given, other = twins("llama", "left")
    subject = Subject(by_hand.build("llama"))
    whole = edge_attribution(subject, given, other, measure=MEASURE)
    monkeypatch.setattr(edges_file, "BUDGET", budget)
    few = edge_attribution(subject, given, other, measure=MEASURE)
    torch.testing.assert_close(few.values, whole.values, equal_nan=True)


def test_rows_before_the_twins_part_are_not_run(monkeypatch):
    rows = []
    through = edge_slopes._through

    def counted(base, where, index, state, visible, start):
        rows.append(state.shape[1])
        return through(base, where, index, state, visible, start)

    monkeypatch.setattr(edge_slopes, "_through", counted)
    given, other = twins("llama", "left")
    edge_attribution(Subject(by_hand.build("llama")), given, other, measure=MEASURE)
    assert set(rows) == {3}
