"""Relations by hand from captured queries, keys and values; a planted change is found in its layer and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.common import reference as common_reference
from crosslens.analyses.common.controls import RANDOM_WEIGHTS, example_keys, one_of_each
from crosslens.analyses.representations import relations
from crosslens.analyses.representations._relations_rows import TEXT, divergences, matched, relation_heads, vectors
from crosslens.analyses.representations._relations_tables import named
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.model.random_weights import random_twin
from crosslens.probes.runs.results import How, Rows

from ..helpers import tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims import relations as planted

TEXTS = ["w9 w8 w7 w6 w5 w4 w3", "w2 w4 w6 w8 w1 w3 w5"]
HOW = How(relations.Options("other", heads=4), relations.Learned(TEXTS, "other"))


def example(name: str, text: str) -> Example:
    return Example(name, name, (Segment("text", text),))


EXAMPLES = [example("a", "w1 w2 w3 w4 w5 w6"), example("b", "w7 w3 w9"), example("c", "w5 w5 w8 w2")]


@pytest.fixture(scope="module")
def subject():
    return tiny.subject()


@pytest.fixture
def opened(monkeypatch):
    """`open(model)`: what --relations.reference opens."""
    return lambda reference: monkeypatch.setattr(common_reference, "_opened", lambda *_: reference)


def rows_of(subject: Any, examples: list[Example], how: How = HOW, **form: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return relations.measure(subject, subject.batch(examples, **form), {}, how)


def by_hand(teacher: Subject, student: Subject, texts: tuple[str, str], heads: int) -> torch.Tensor:
    """[layers, kinds] of two models of the same depth, each on its text, at as many tokens as the shorter one has."""
    seen = [
        capture(one, one.batch([text]), ["q", "k", "v"]) for one, text in zip((teacher, student), texts, strict=True)
    ]
    length = min(one["q", 0].shape[1] for one in seen)
    return torch.tensor(
        [
            [
                metrics.relation_divergence(*(one[kind, layer][0, :length].flatten(1) for one in seen), heads)
                for kind in ("q", "k", "v")
            ]
            for layer in range(student.n_layers)
        ]
    )


def test_rows_are_the_divergences_by_hand(subject, opened):
    reference = tiny.subject("qwen2", seed=1)
    opened(reference)
    rows = rows_of(subject, EXAMPLES)
    for i, one in enumerate(EXAMPLES):
        other = one_of_each(TEXTS, example_keys([one.id], 0))[0]
        for control, teacher, text in (
            ("", reference, one.text),
            (RANDOM_WEIGHTS, random_twin(reference), one.text),
            (TEXT, subject, other),
        ):
            expected = by_hand(teacher, subject, (text, one.text), 4)
            torch.testing.assert_close(rows[named(control)][i], expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, opened, padding):
    opened(tiny.subject(seed=1))
    together = rows_of(subject, EXAMPLES[::-1], padding=padding)
    for i, one in enumerate(EXAMPLES[::-1]):
        for name, values in rows_of(subject, [one]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=2e-3, atol=1e-6)


def test_relations_of_a_model_with_itself_are_equal(subject):
    own = vectors(subject, subject.batch(EXAMPLES[:1]))
    assert divergences(own, own, 4).abs().max() < 1e-6


def test_layers_are_matched_by_depth_and_missing_heads_are_nothing(subject):
    assert matched(3, 3) == [0, 1, 2]
    assert matched(30, 12)[::29] == [0, 11]
    assert matched(1, 12) == [0]
    own = vectors(subject, subject.batch(EXAMPLES[:1]))
    found = divergences([own[0], None, *own[1:]], [*own, None], 4)
    assert found.shape == (4, 3)
    assert found[0].max() < 1e-6
    assert bool(found[1].isnan().all())
    assert bool(found[3].isnan().all())


def test_relation_heads_divide_both_models(subject):
    widths = (subject.n_heads * subject.d_head, subject.n_kv_heads * subject.d_head)
    for most in (1, 5, 12):
        heads = relation_heads((subject, subject), most)
        assert heads <= most
        assert all(width % heads == 0 for width in widths)
    assert relation_heads((subject, subject), 5) == 4


# ---------------------------------------------------------------- planted models


def changed(subject: Subject, layer: int) -> Subject:
    """The same model with other queries in one layer, whose attention writes nothing, so that all else stays."""
    model = copy.deepcopy(subject.model)
    attention = model.model.layers[layer].self_attn
    with torch.no_grad():
        attention.q_proj.weight.copy_(attention.q_proj.weight.flip(1))
    return Subject(model, tiny.tokenizer(), name="changed")


def silent() -> Subject:
    subject = tiny.subject()
    with torch.no_grad():
        for layer in subject.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    return subject


@pytest.mark.parametrize("layer", [0, 2])
def test_what_was_changed_is_found_in_its_layer_alone(opened, layer):
    base = silent()
    opened(base)
    examples = [example(f"e{i}", f"w{i} w{i + 7} w{2 * i} w{i + 20} w3") for i in range(1, 8)]
    rows = rows_of(changed(base, layer), examples)
    found = rows["relations"].amax(0)
    assert found[layer, 0] > 0.01
    found[layer, 0] = 0
    assert found.max() < 1e-6
    frame = planted.rows().examples.iloc[: len(examples)].assign(group=[one.group for one in examples])
    tables = tables_from(relations, Rows(frame, {name: values.numpy() for name, values in rows.items()}))
    upper = tables["tested"].query("claim == 'the upper layers were changed most' and than == ''").iloc[0]
    assert upper["value"] == pytest.approx(2 if layer else -2)
    near = tables["tested"].query("claim == 'related models relate alike' and than == ''").iloc[0]
    assert near["upper"] < 0.5


def test_without_another_text_its_shares_cannot_be_said():
    tables = tables_from(relations, planted.rows(texts=False))
    assert "shares" not in tables
    assert tables["tested"]["untestable"].iloc[0] == "the task has no other text to hold out"
    assert TEXT not in set(tables["layers"]["control"])


def test_what_is_held_out_are_texts_and_the_other_model(subject, opened):
    other = tiny.subject(seed=1)
    opened(other)
    learned = relations.fit(subject, [subject.batch(EXAMPLES), subject.batch(EXAMPLES, bos=False)], HOW.options)
    assert learned.texts == [one.text for one in EXAMPLES]
    assert learned.reference == other.fingerprint
    assert "3 held-out texts" in relations.methods(HOW.options, learned, {})


# ---------------------------------------------------------------- what is refused


def refused(subject: Any, said: str, examples: list[Example] = EXAMPLES, how: How = HOW) -> None:
    with pytest.raises(UserError, match=said) as raised:
        rows_of(subject, examples, how)
    assert "\n" not in str(raised.value)


def test_no_other_model_or_the_very_same(subject, opened):
    refused(subject, "name the other one, --relations.reference NAME", how=How(relations.Options()))
    refused(subject, "unknown subject 'nobody'", how=How(relations.Options("nobody")))
    refused(subject, "--relations.heads 0", how=How(relations.Options("other", heads=0)))
    opened(tiny.subject())
    refused(subject, "is the very model that is run")


def test_a_reference_of_another_tokenizer(subject, opened):
    other = tiny.subject(seed=1)
    reordered = tiny.tokenizer()
    reordered.add_tokens(["w1 w2"])
    opened(Subject(other.model, reordered, name="reordered"))
    refused(subject, "reordered reads the text in other tokens .example a.*same tokenizer")


def test_an_image_is_refused(subject, opened, tmp_path):
    opened(subject)
    seeing = vision_subjects.save("llava", tmp_path)
    segments = (Segment("text", "w1"), Segment("image", vision_subjects.picture(1)), Segment("text", " w2"))
    refused(seeing, "on the same text, and here is an image", [Example("a", "a", segments)])


def test_the_tables_have_every_layer_kind_and_control():
    tables = tables_from(relations, planted.rows())
    assert len(tables["layers"]) == planted.LAYERS * 3 * 3
    assert len(tables["shares"]) == planted.LAYERS * 3 * 2
    assert np.allclose(tables["shares"].query("control == ''")["value"].mean(), 0.1, atol=0.03)
