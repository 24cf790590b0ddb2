"""A hand-set model whose answer rests on one word: masking influence lies there; in its twin there is none."""

from __future__ import annotations

import torch
from crosslens.analyses.attribution._influence import influence_rows
from crosslens.data.example import ROLES, Example, Segment
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.prompts.batch import Batch

from ..helpers.planted import induction_model, prompts


def rows_of(*, planted: bool) -> dict[str, torch.Tensor]:
    """A B … A: B stands behind the first A, where head 1.0 reads it. Marks: that place, and the one behind it."""
    inputs, _, answers, others = prompts()
    ids = inputs["input_ids"]
    place = (ids[:, :-1] == ids[:, -1:]).int().argmax(1) + 1
    source = torch.nn.functional.one_hot(place, ids.shape[1]).bool()
    examples = tuple(Example(f"p{i}", f"p{i}", (Segment("text", ""),)) for i in range(len(ids)))
    roles = torch.full(ids.shape, ROLES.index("text"))
    batch = Batch(examples, inputs, roles, {"source": source, "beside": source.roll(1, 1)})
    return influence_rows(induction_model(planted=planted), batch, logit_difference(answers, others), calibrated=0)


def test_influence_lies_where_the_answer_is_read():
    rows = rows_of(planted=True)
    whole = rows["influence|pairs"].sum((2, 3))
    share, beside = (rows[f"influence|at {name}"].sum(1) / whole.sum(1) for name in ("source", "beside"))
    assert (share > 2 * beside).all(), (share, beside)
    by_head = rows["influence|distance"].sum(-1)[:, 1]
    assert (by_head[:, 0] > 10 * by_head[:, 1]).all()  # head 1.0 writes the answer, 1.1 attends evenly


def test_an_answer_that_rests_on_nothing_has_none():
    whole, twin = (rows_of(planted=planted)["influence|pairs"].sum((1, 2, 3)) for planted in (True, False))
    assert (twin < 1e-3 * whole).all(), (twin, whole)
