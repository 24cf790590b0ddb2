"""The image's exit: behind the last layer it changes nothing, before the first it is the blind run; rows stay apart."""

from __future__ import annotations

import pytest
import torch
from crosslens.analyses.common.controls import IMAGE as ANOTHER
from crosslens.analyses.redundancy import visual_exit
from crosslens.analyses.redundancy._exit_rows import READ, TEXT, _cut, _read, answers_of, behind_image, random_text
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.intervene.recording import record
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.prompts.image_ablation import hide_image
from crosslens.probes.runs.results import How

from ..helpers import tiny, vision_subjects
from ..helpers.counting import layer_rows

HOW = How(visual_exit.Options())
LOSS, AGREE = READ.index("loss"), READ.index("agreement")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


def example(name, question, seed, *more):
    picture = Segment("image", vision_subjects.picture(seed))
    segments = (Segment("text", "w1 w2"), picture, Segment("question", f" {question}"), Segment("text", " w2"), *more)
    return Example(name, name, segments, answer=" w4", unrelated=(vision_subjects.picture(seed + 9),))


EXAMPLES = [example("a", "w5 w6 w3", 1), example("b", "w7", 2, Segment("answer", " w4 w6"))]


def rows_of(subject, examples, **form):
    return visual_exit.measure(subject, subject.batch(examples, **form), {}, HOW)


def losses(subject, batch, cut_from):
    """Of whole forwards in which nothing outside of the image reads it, from a layer on."""
    edit = hide_image(batch.where("image"))
    layers = dict.fromkeys(range(cut_from, subject.n_layers), edit)
    with torch.no_grad(), tracing(subject, edits=layers):
        logits = subject.model(**subject.prepare(batch)).logits.float().log_softmax(-1)
    found, question = [], answers_of(batch)
    for row, places, targets in zip(logits, question.places, question.targets, strict=True):
        found.append(torch.stack([-row[p, t] for p, t in zip(places, targets, strict=True) if t >= 0]).mean())
    return torch.stack(found)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_every_exit_is_the_forward_with_the_columns_cut(subject, padding):
    batch = subject.batch(EXAMPLES, padding=padding)
    own = rows_of(subject, EXAMPLES, padding=padding)["exit|"]
    for exit_behind in range(subject.n_layers + 1):
        expected = losses(subject, batch, exit_behind)
        torch.testing.assert_close(own[:, exit_behind, LOSS], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own[:, -1, LOSS], own[:, -1, READ.index("clean loss")], rtol=0, atol=0)
    assert (own[:, -1, AGREE] == 1).all()
    assert (own[:, 0, LOSS] - own[:, -1, LOSS]).abs().max() > 1e-4


def test_the_curve_is_half_of_the_layers_forwards_of_the_text(subject):
    batch = subject.batch(EXAMPLES)
    base, target = record(subject, batch), behind_image(batch)
    for _ in range(2):  # the first proves the model
        with layer_rows(subject) as counts:
            _read(base, _cut(base, target, batch.where("image")), target, answers_of(batch))
    one = subject.n_layers * int(target.sum(1).max()) * len(batch.examples)
    assert sum(counts) <= one * ((subject.n_layers + 1) / 2 + 1 + 3 / subject.n_layers)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, padding):
    together = rows_of(subject, EXAMPLES, padding=padding)
    assert set(together) == {"exit|", f"exit|{TEXT}", f"exit|{ANOTHER}"}
    for i, one in enumerate(EXAMPLES):
        for name, values in rows_of(subject, [one]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=1e-3, atol=1e-4, msg=name)


def test_another_image_from_the_first_layer_on_is_that_image_read(subject):
    """Lent in every layer, text behind reads the other image alone: the loss is the other prompt's."""
    swapped = rows_of(subject, EXAMPLES[:1])[f"exit|{ANOTHER}"][0, 0, LOSS]
    other = Example("o", "o", EXAMPLES[0].segments, answer=" w4")
    segments = tuple(Segment("image", EXAMPLES[0].unrelated[0]) if s.role == "image" else s for s in other.segments)
    batch = subject.batch([Example("o", "o", segments, answer=" w4")])
    torch.testing.assert_close(swapped, losses(subject, batch, subject.n_layers)[0], rtol=1e-4, atol=1e-5)


def test_random_text_is_no_image_and_at_most_half(subject):
    batch = subject.batch(EXAMPLES)
    chosen = random_text(batch)
    assert not (chosen & (batch.where("image") | batch.final)).any()
    text = (batch.mask & ~batch.where("image")).sum(1)
    assert (chosen.sum(1) > 0).all()
    assert (chosen.sum(1) <= text // 2).all()


def test_a_text_is_refused_in_one_line():
    subject = tiny.subject()
    with pytest.raises(UserError, match="no image tokens: visual_exit needs a task with pictures"):
        rows_of(subject, [Example("t", "t", (Segment("text", "w1 w2"),))])
