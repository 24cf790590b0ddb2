"""`edges`: exact paths are the sweep's, estimates are edge attribution's, and a planted circuit's come first."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.analyses.circuits import edges
from crosslens.analyses.circuits._edge_names import EXACT, OUTPUT
from crosslens.analyses.common import stats
from crosslens.analyses.common.contrast import contrast
from crosslens.data.errors import UserError
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.edge_graph import Reader, Writer
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.paths import Receiver, path_sweep
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, planted, tiny
from ..helpers.makers import tables_from
from .claims import edges as claims_of

OPTIONS = edges.Options(movers=2, strongest=6)


def analyse(out, subject=None, options=OPTIONS, **settings):
    settings = {"limit": 8, "out": out} | settings
    (directory,) = run(subject or tiny.subject(), contrasts.task(), {"edges": (edges, options)}, Settings(**settings))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return analyse(tmp_path_factory.mktemp("edges"))


def fitted(subject):
    held_out = contrasts.task().held_out(subject.tokenizer, 32, 0, contrasts.examples(8, tokenizer=None))
    learned = edges.fit(subject, [subject.batch(held_out)], OPTIONS)
    return [tuple(head) for head in learned.heads], learned


def test_effects_equal_the_sweeps(found):
    subject = tiny.subject()
    movers, learned = fitted(subject)
    examples = contrasts.examples(8, tokenizer=None)
    others = [e for e in examples if e.group not in learned.selected_on]
    assert others, "what was chosen is measured on the groups that it was not chosen on"
    whole, elsewhere = (contrast(subject, subject.batch(some)) for some in (examples, others))
    into = found["into"].sort_values(["layer", "head"])
    for receiver in [None, *(Receiver(layer, head, "q") for layer, head in movers if layer)]:
        name = OUTPUT if receiver is None else f"q of {receiver.layer}.{receiver.head}"
        layers = 3 if receiver is None else receiver.layer
        given = whole if receiver is None else elsewhere
        both = {"measure": given.measure, "positions": given.base.final}
        reader = Reader("final", 3, -1) if receiver is None else Reader("q", receiver.layer, receiver.head)
        sweep = path_sweep(
            subject, given.base, given.donor, "final" if receiver is None else [receiver], **both, mlps="frozen"
        )
        exact = sweep.effects.mean(0)[:layers].flatten()
        estimated = edge_attribution(subject, given.base, given.donor, **both, readers=[reader])
        heads = [i for i, w in enumerate(estimated.writers) if w.kind == "head" and w.layer < layers]
        expected = {EXACT: exact, "1 step": estimated.values[0, heads].mean(-1)}
        for measure, values in expected.items():
            mine = into[(into["receiver"] == name) & (into["measure"] == measure)]["value"]
            np.testing.assert_allclose(mine, values, atol=1e-5)
    given = elsewhere
    every = edge_attribution(subject, given.base, given.donor, measure=given.measure, steps=5)
    values = {n: float(v.mean()) for n, v in edges._named(every).items()}
    table = found["edges"].query("measure == '5 steps'").sort_values("rank")
    assert table["edge"].tolist() == learned.edges
    assert set(table["n"]) == {len(others)}
    np.testing.assert_allclose(table["value"], [values[n] for n in learned.edges], atol=1e-5)


def test_some_readers_and_positions_are_parts_of_all():
    subject = tiny.subject()
    given = contrast(subject, subject.batch(contrasts.examples(5, tokenizer=None), padding="left"))
    asked = (subject, given.base, given.donor)
    every = edge_attribution(*asked, measure=given.measure)
    some = [Reader("v", 1, 1), Reader("mlp", 0, -1), Reader("final", 3, -1)]
    few = edge_attribution(*asked, measure=given.measure, readers=some)
    assert set(few.readers) == set(some)
    for reader, values in zip(few.readers, few.values, strict=True):
        torch.testing.assert_close(values, every.values[every.readers.index(reader)], equal_nan=True)
    last = given.base.final
    halves = [edge_attribution(*asked, measure=given.measure, positions=p) for p in (last, ~last)]
    torch.testing.assert_close(halves[0].values + halves[1].values, every.values, equal_nan=True, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="no reader"):
        edge_attribution(*asked, measure=given.measure, readers=[Reader("q", 3, 0)])


def test_the_edges_of_a_planted_circuit_are_the_strongest():
    """Induction: the earlier head's output becomes the later one's key; that one writes the answer."""
    subject = planted.induction_model()
    base, donor, answers, others = planted.prompts()
    found = edge_attribution(subject, base, donor, measure=logit_difference(answers, others), steps=50)
    heads = [j for j, writer in enumerate(found.writers) if writer.kind == "head"]
    mean = found.values.mean(-1).nan_to_num().abs()[:, heads]
    top = [divmod(place, len(heads)) for place in mean.flatten().topk(2).indices.tolist()]
    assert {(found.writers[heads[j]], found.readers[i]) for i, j in top} == {
        (Writer("head", 0, 0), Reader("k", 1, 0)),
        (Writer("head", 1, 0), Reader("final", 2, -1)),
    }


@pytest.mark.parametrize("settings", [{"size": 1}, {"size": 3, "padding": "left"}])
def test_batches_and_padding_change_nothing(found, tmp_path, settings):
    other = analyse(tmp_path, **settings)
    for name in ("edges", "into"):
        pd.testing.assert_frame_equal(other[name], found[name], rtol=1e-3, atol=1e-5)


def test_recordings_of_a_few_examples_at_a_time_change_nothing(found, tmp_path, monkeypatch):
    monkeypatch.setattr(edges, "_AT_ONCE", 1)
    other = analyse(tmp_path)
    for name in ("edges", "into", "task"):
        pd.testing.assert_frame_equal(other[name], found[name], rtol=1e-3, atol=1e-5)


def test_a_family_that_norms_what_its_attention_writes_has_edges(tmp_path):
    """Short windows: nothing that differs reaches the last position through layer 0, and that is no error."""
    made = analyse(tmp_path, tiny.subject("gemma2"))
    assert made["edges"]["value"].abs().max() > 0


@pytest.mark.parametrize("edge", ["0.1", "0.9 → q of 1.0", "0.1 → q of 7.0"])
def test_an_edge_that_does_not_exist_is_one_line(tmp_path, edge):
    with pytest.raises(UserError, match="no edge") as error:
        analyse(tmp_path, options=edges.Options(movers=2, edges=(edge,)))
    assert "\n" not in str(error.value)


def test_chance_is_over_all_heads_of_a_receivers_map():
    rows = claims_of.rows()
    into = tables_from(edges, rows, **claims_of.LEARNED)["into"]
    mine = into[(into["receiver"] == OUTPUT) & (into["measure"] == EXACT)].sort_values(["layer", "head"])
    expected = stats.family_p(rows[f"{OUTPUT}|{EXACT}"], rows.examples["group"])
    np.testing.assert_allclose(mine["p_value"].to_numpy(), expected.ravel())
