"""INTER's interaction equals four forwards by hand; what neither picture nor question changes has none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crosslens.analyses.attribution._interaction import NOISE, interaction_rows
from crosslens.analyses.common.controls import IMAGE, another_image, another_question
from crosslens.data.example import Example, Segment

from ..helpers import tiny, vision_subjects


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


def example(name, question, seed):
    segments = (
        Segment("text", "w1"),
        Segment("image", vision_subjects.picture(seed)),
        Segment("question", f" {question}"),
        Segment("text", " w2"),
    )
    return Example(name, name, segments, answer=" w4", wrong=(" w5",), unrelated=(vision_subjects.picture(seed + 9),))


EXAMPLES = [example("a", "w5 w6", 1), example("b", "w7", 2)]


def test_four_forwards_by_hand(subject):
    rows = interaction_rows(subject, subject.batch(EXAMPLES), ["w5 w6", "w7"])
    for i, (one, other) in enumerate(zip(EXAMPLES, ["w7", "w5 w6"], strict=True)):
        mute = another_question(one, other)
        assert mute is not None
        four = [one, another_image(one), mute, another_image(mute)]
        batch = subject.batch([one])
        logits = torch.cat([subject.last_logits(subject.batch([changed])).float() for changed in four])
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None]
        whole, words = (signs * logits).sum(0), (signs * logits.log_softmax(-1)).sum(0)
        expected = {
            "answer": words[batch.answers[0]],
            "wrong": words[batch.wrong[0]],
            "top": words[logits[0].topk(5).indices].mean(),
            "variance": whole.var(),
        }
        for name, value in expected.items():
            torch.testing.assert_close(rows[f"interaction|{name}|{IMAGE}"][i, 0], value, rtol=1e-3, atol=1e-4)


def test_answers_are_read_step_by_step(subject):
    """An answer that stands in the prompt: its own tokens at each step, and no wrong one."""
    spoken = [Example("a", "a", (*EXAMPLES[0].segments, Segment("answer", " w4 w6")), unrelated=EXAMPLES[0].unrelated)]
    rows = interaction_rows(subject, subject.batch(spoken), ["w7"])
    assert rows[f"interaction|answer|{IMAGE}"].isfinite().sum() == 2
    assert rows[f"interaction|wrong|{IMAGE}"].isnan().all()
    assert rows[f"interaction|answer|{NOISE}"].isfinite().all()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, padding):
    together = interaction_rows(subject, subject.batch(EXAMPLES, padding=padding), ["w5 w6", "w7"])
    for i, one in enumerate(EXAMPLES):
        for name, values in interaction_rows(subject, subject.batch([one]), ["w5 w6", "w7"]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=1e-3, atol=1e-4)


def test_a_picture_that_says_the_same_has_no_interaction(subject):
    """Where the other picture is the picture, l(V, T) and l(V̸, T) are one number, and so are the others."""
    same = [replace(example, unrelated=(example.images[0],)) for example in EXAMPLES]
    rows = interaction_rows(subject, subject.batch(same), ["w5 w6", "w7"])
    assert rows[f"interaction|answer|{IMAGE}"].abs().max() < 1e-4
    assert rows[f"interaction|answer|{NOISE}"].abs().max() > 1e-4


def test_without_another_question_or_picture_nothing_is_said(subject):
    rows = interaction_rows(subject, subject.batch(EXAMPLES[:1]), ["w5 w6"])
    assert rows[f"interaction|answer|{IMAGE}"].isnan().all()
    text = tiny.subject()
    assert interaction_rows(text, text.batch(["w1 w2"]), []) == {}
