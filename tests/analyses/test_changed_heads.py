"""Both models' effects are the sweeps' own; a head that was changed is found, and none where none was."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from crosslens import Subject
from crosslens.analyses.circuits import changed_heads
from crosslens.analyses.circuits._changed_tables import HALVES, KEPT, MEASURES, MORE, SHUFFLED, other
from crosslens.analyses.circuits._circuit_tables import DIRECT, EXACT
from crosslens.analyses.common import reference as common_reference
from crosslens.analyses.common.agreement import spearman
from crosslens.analyses.common.claims import UNTESTABLE
from crosslens.analyses.common.stats import split_half
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import patch_sweep
from crosslens.probes.intervene.paths import path_sweep
from crosslens.probes.prompts.batch import corrupt_twins
from crosslens.probes.runs.results import How, Rows

from ..helpers import contrasts, tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims import changed_heads as planted

HOW = How(changed_heads.Options("other"), changed_heads.Learned("other"))


@pytest.fixture(scope="module")
def subject():
    return tiny.subject()


@pytest.fixture
def opened(monkeypatch):
    """`open(model)`: what --changed_heads.reference opens."""
    return lambda reference: monkeypatch.setattr(common_reference, "_opened", lambda *_: reference)


def rows_of(subject: Any, examples: list[Example], **form: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return changed_heads.measure(subject, subject.batch(examples, **form), {}, HOW)


def by_hand(subject: Subject, examples: list[Example]) -> dict[str, torch.Tensor]:
    batch = subject.batch(examples)
    twins, measure = corrupt_twins(subject, batch), logit_difference(batch.answers, batch.wrong)
    exact = patch_sweep(subject, batch, twins, "z", positions=batch.final, measure=measure)
    direct = path_sweep(subject, batch, twins, measure=measure)
    return {f"head|{name}": (s.values - s.clean).movedim(-1, 0) for name, s in ((EXACT, exact), (DIRECT, direct))}


def test_rows_are_the_effects_in_both_models(subject, opened):
    reference, examples = tiny.subject(seed=1), contrasts.examples(4, tokenizer=None)
    opened(reference)
    found = rows_of(subject, examples)
    for name, expected in by_hand(subject, examples).items():
        torch.testing.assert_close(found[name].float(), expected.float(), rtol=1e-4, atol=1e-5)
    for name, expected in by_hand(reference, examples).items():
        torch.testing.assert_close(found[other(name)].float(), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, opened, padding):
    opened(tiny.subject(seed=1))
    examples = contrasts.examples(3, tokenizer=None)[::-1]
    together = rows_of(subject, examples, padding=padding)
    for i, one in enumerate(examples):
        for name, values in rows_of(subject, [one]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- planted models and rows


def retrained(subject: Subject, layer: int, head: int) -> Subject:
    """The same model, one head of which writes the opposite."""
    model, size = copy.deepcopy(subject.model), subject.d_head
    with torch.no_grad():
        model.model.layers[layer].self_attn.o_proj.weight[:, head * size : (head + 1) * size] *= -1
    return Subject(model, tiny.tokenizer(), name="retrained")


def test_the_path_of_a_head_that_was_turned_changes_most(subject, opened):
    opened(subject)
    layer = subject.n_layers - 1
    rows = rows_of(retrained(subject, layer, 1), contrasts.examples(8, tokenizer=None))
    change = (rows[f"head|{DIRECT}"] - rows[other(f"head|{DIRECT}")]).mean(0).abs()
    assert divmod(int(change[layer].argmax()), subject.n_heads)[1] == 1
    assert change[layer, 1] > 3 * change[layer, [0, 2, 3]].max()


def test_the_planted_head_is_named_and_its_twin_is_not():
    tables = tables_from(changed_heads, planted.rows())
    named = changed_heads.findings(tables)[-1]
    assert named.heads == "4.3"
    assert named.state == "found"
    assert named.value == pytest.approx(2.0, abs=0.05)
    same = changed_heads.findings(tables_from(changed_heads, planted.rows(change=0.0)))[-1]
    assert same.state == "open"


def test_noise_alone_is_no_sign_of_other_heads():
    """Equal effects and much noise: two maps that are known so badly correlate badly, as halves of one model do."""
    rows, rng = planted.rows(change=0.0, groups=10), np.random.default_rng(4)
    for name, values in rows.values.items():
        if name.split("|")[-1] in MEASURES:
            values += rng.normal(0, 2.5, values.shape)
    tables = tables_from(changed_heads, rows)
    (kept,) = (claim for claim in changed_heads.claims(tables) if claim.name == KEPT)
    assert kept.verdict == UNTESTABLE
    assert "two halves of the examples agree by" in kept.numbers


def test_tables_by_hand():
    rows = planted.rows()
    tables = tables_from(changed_heads, rows)
    here, there = (-rows[name].mean(0) for name in (f"head|{EXACT}", other(f"head|{EXACT}")))
    heads = tables["heads"].query("measure == @EXACT")
    np.testing.assert_allclose(heads["value"], (here - there).ravel(), atol=1e-12)
    first, second = split_half(rows.examples["group"])
    halves = -(rows[other(f"head|{EXACT}")][first].mean(0) - rows[other(f"head|{EXACT}")][second].mean(0))
    np.testing.assert_allclose(heads["halves"], halves.ravel(), atol=1e-12)
    layers = tables["layers"].query("measure == @EXACT and line == 'the change'").set_index(["layer", "control"])
    assert layers["value"][4, ""] == pytest.approx(np.sqrt(((here - there)[4] ** 2).mean()))
    assert layers["value"][4, HALVES] == pytest.approx(np.sqrt((halves[4] ** 2).mean()))
    tested = tables["tested"].set_index(["claim", "than"])["value"]
    assert tested[KEPT, ""] == pytest.approx(spearman(here.ravel(), there.ravel()))
    turns = [spearman(np.roll(here, by, 1).ravel(), there.ravel()) for by in range(1, planted.HEADS)]
    assert tested[KEPT, SHUFFLED] == pytest.approx(tested[KEPT, ""] - np.mean(turns))
    size = np.sqrt(((here - there) ** 2).mean() / (there**2).mean())
    assert tested[MORE, ""] == pytest.approx(size)
    assert tested[MORE, HALVES] < size


def test_layers_without_heads_are_left_out():
    rows = planted.rows()
    for name in [name for name in rows.values if "head|" in name]:
        rows.values[name][:, 2] = np.nan
    tables = tables_from(changed_heads, Rows(rows.examples, rows.values))
    assert set(tables["layers"]["layer"]) == {0, 1, 3, 4, 5}
    assert 2 not in set(tables["heads"]["layer"])
    assert not tables["tested"]["value"].isna().any()


# ---------------------------------------------------------------- what is refused


def refused(subject: Any, said: str, examples: list[Example], how: How = HOW) -> None:
    with pytest.raises(UserError, match=said) as raised:
        changed_heads.measure(subject, subject.batch(examples), {}, how)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_compared(subject, opened, tmp_path):
    examples = contrasts.examples(2, tokenizer=None)
    refused(subject, "name the other one, --changed_heads.reference NAME", examples, How(changed_heads.Options()))
    opened(tiny.subject())
    refused(subject, "is the very model that is run", examples)
    smaller = tiny.subject("gpt2")
    if (smaller.n_layers, smaller.n_heads) != (subject.n_layers, subject.n_heads):
        opened(smaller)
        refused(subject, "heads are compared one by one", examples)
    seeing = vision_subjects.save("llava", tmp_path)
    segments = (Segment("text", "w1"), Segment("image", vision_subjects.picture(1)), Segment("text", " w2"))
    refused(seeing, "here is an image: take a task of text", [Example("a", "a", segments)])


def test_which_model_is_compared_with_is_learned(subject, opened):
    reference = tiny.subject(seed=1)
    opened(reference)
    learned = changed_heads.fit(subject, [], HOW.options)
    assert learned.reference == reference.fingerprint
    assert "minus that of other" in changed_heads.methods(HOW.options, learned, {})
