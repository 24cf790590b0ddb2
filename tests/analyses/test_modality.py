"""Modality equals the published metrics on whole maps; a layer that reads the image alone is found, a sink is none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from crosslens import metrics
from crosslens.analyses.attention import modality
from crosslens.analyses.attention._modality_rows import IMAGE, KEYS, QUERIES, STAND_IN, groups_of, with_neutral_text
from crosslens.analyses.attention._modality_tables import _random_text
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, observe

from ..helpers import tiny, vision_subjects

HOW = How(modality.Options())
QUESTION, LAST = QUERIES.index("question"), QUERIES.index("last")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


def example(name, question, seed, *more):
    segments = (
        Segment("text", "w1 w2"),
        Segment("image", vision_subjects.picture(seed)),
        Segment("question", f" {question}"),
        Segment("text", " w2"),
        *more,
    )
    other = (vision_subjects.picture(seed + 9),)
    return Example(name, name, segments, answer=" w4", wrong=(" w5",), unrelated=other)


EXAMPLES = [example("a", "w5 w6 w3", 1), example("b", "w7", 2)]


def rows_of(subject, examples, **form):
    return observe(subject, subject.batch(examples, **form), {"modality": (modality, HOW)})["modality"]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_shares_are_the_published_metrics(subject, padding):
    batch = subject.batch(EXAMPLES, padding=padding)
    image, kept = batch.where("image"), []
    rows = rows_of(subject, EXAMPLES, padding=padding)
    with torch.no_grad(), tracing(subject, lambda layer: kept.append(layer.pattern())):
        subject.forward(batch)
    for layer, pattern in enumerate(kept):
        mass = rows["mass"][:, layer]
        ratio = metrics.visual_text_ratio(pattern, image, batch.mask, batch.final)
        torch.testing.assert_close(mass[:, :, LAST, IMAGE] / (1 - mass[:, :, LAST, IMAGE]), ratio, rtol=1e-4, atol=1e-6)
        flows = metrics.modality_flows(pattern, image, batch.mask)
        torch.testing.assert_close(mass[:, :, 0, IMAGE], flows.image_to_image, rtol=1e-4, atol=1e-6)
        shares = metrics.attention_share(pattern, image)
        asked = groups_of(batch).queries[:, QUESTION]
        torch.testing.assert_close(mass[:, :, QUESTION, IMAGE], metrics.mean_over_queries(shares, asked))
    whole = rows["mass"].sum(-1)
    torch.testing.assert_close(whole[~whole.isnan()], torch.ones_like(whole[~whole.isnan()]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows["uniform"].sum(-1).nan_to_num(1.0), torch.ones_like(rows["uniform"][..., 0]))


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, padding):
    together = rows_of(subject, EXAMPLES, padding=padding)
    for i, one in enumerate(EXAMPLES):
        for name, values in rows_of(subject, [one]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=1e-3, atol=1e-5, equal_nan=True)


def edited(subject, change):
    """What is observed of one prompt where layer 1 reads what `change` makes of its maps."""
    seen = SimpleNamespace(observe=modality.observe)
    with tracing(subject, edits={1: lambda call: call.edited(pattern_edit=change)}):
        return observe(subject, subject.batch(EXAMPLES[:1]), {"modality": (seen, HOW)})["modality"]


def test_a_layer_that_reads_the_image_alone_is_found(subject):
    keys = groups_of(subject.batch(EXAMPLES[:1])).keys

    def image_alone(pattern, *_):
        behind = pattern * keys[:, None, IMAGE][:, None][..., : pattern.shape[-1]]
        total = behind.sum(-1, keepdim=True)
        return torch.where(total > 0, behind / total.clamp_min(1e-20), pattern)

    plain, rows = rows_of(subject, EXAMPLES[:1]), edited(subject, image_alone)
    torch.testing.assert_close(rows["mass"][0, 1, :, LAST, IMAGE], torch.ones(subject.n_heads))
    torch.testing.assert_close(rows["twin"][0, 1, :, LAST, IMAGE], torch.ones(subject.n_heads))
    assert plain["mass"][0, 1, :, LAST, IMAGE].max() < 0.99


def test_a_sink_takes_shares_but_no_twins(subject):
    """Nine tenths on the first token: every other share is a tenth of what it was, and the twin is what it was."""

    def sink(pattern, *_):
        changed = 0.1 * pattern
        changed[..., 0] += 0.9
        return changed

    plain, rows = rows_of(subject, EXAMPLES[:1]), edited(subject, sink)
    torch.testing.assert_close(rows["mass"][:, 1, :, LAST, IMAGE], 0.1 * plain["mass"][:, 1, :, LAST, IMAGE])
    torch.testing.assert_close(rows["twin"][:, 1, :, LAST], plain["twin"][:, 1, :, LAST], rtol=1e-4, atol=1e-6)


def test_steps_of_an_answer_are_read_one_by_one(subject):
    rows = rows_of(subject, [example("c", "w5", 1, Segment("answer", " w4 w6 w3"))])
    assert rows["steps"].shape[2] == 3
    assert rows["steps"].isfinite().all()
    assert rows["mass"][0, 0, :, QUERIES.index("answer")].isfinite().all()
    assert rows["mass"].shape[-2:] == (len(QUERIES), len(KEYS))


def test_an_answer_that_is_spoken_is_read_where_it_is_predicted(subject):
    open_ended, spoken = (
        rows_of(subject, [example("c", "w5", 1, *more)]) for more in ((), (Segment("answer", " w4 w6"),))
    )
    said = [name for name in open_ended if name.startswith("said|")]
    assert len(said) == 4
    for name in said:
        assert torch.equal(open_ended[name], spoken[name]), name


def test_an_example_without_an_answer_leaves_its_neighbours_theirs(subject):
    silent = replace(example("d", "w7", 2), answer="", wrong=())
    alone, together = rows_of(subject, EXAMPLES[:1]), rows_of(subject, [EXAMPLES[0], silent])
    for name in (name for name in alone if name.startswith(("said|", "share|"))):
        torch.testing.assert_close(together[name][0], alone[name][0], rtol=1e-3, atol=1e-5)
        assert together[name][1].isnan().all(), name


def test_neutral_text_takes_the_place_of_the_image(subject):
    tokens = int(subject.batch(EXAMPLES[:1]).where("image").sum())
    batch = subject.batch([with_neutral_text(EXAMPLES[0], subject.tokenizer, tokens)])
    assert not batch.where("image").any()
    assert int(batch.marks[STAND_IN].sum()) == pytest.approx(tokens, abs=2)
    assert int(groups_of(batch).keys[0, IMAGE].sum()) == int(batch.marks[STAND_IN].sum())


def test_a_text_is_refused_in_one_line():
    subject = tiny.subject()
    with pytest.raises(UserError, match="no image tokens: modality needs a task with pictures"):
        rows_of(subject, [Example("t", "t", (Segment("text", "w1 w2"),))])


def test_random_text_positions_get_the_images_share_where_all_keys_are_alike():
    keys = np.array([[1.0, 3, 16, 5], [1, 0, 40, 2]])
    alike = np.broadcast_to((keys / keys.sum(1, keepdims=True))[:, None, None], (2, 3, len(QUERIES), len(KEYS)))
    drawn = _random_text(alike, keys)
    np.testing.assert_allclose(drawn, alike[..., IMAGE])
    no_text = np.array([[1.0, 0, 16, 0]])
    assert np.isnan(_random_text(alike[:1], no_text)).all()
