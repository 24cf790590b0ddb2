"""Prompts in a form of the user's own, image tokens without an image, answers of several tokens, free spelling."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.prompts.several_tokens import first_difference, several_tokens, summed_log_probability
from crosslens.probes.prompts.spelling import OWN, WRITTEN, freely_spelled, respelled
from crosslens.probes.prompts.text_prompts import render
from PIL import Image

from ..helpers import tiny
from ..helpers.tokenizer_kinds import byte_level, llama
from ..helpers.vision_subjects import build

PICTURE = Image.new("RGB", (12, 8), "red")
ASKED = Example("e", "g", (Segment("image", PICTURE), Segment("question", "w1 w2", {"m": [(3, 5)]})), " w3", (" w4",))


@pytest.fixture(scope="module")
def llava():
    return Subject(*build("llava"))


def text_of(subject, example, form):
    return render(subject, example, form)[0]


def test_a_form_puts_image_and_question_in_their_places(llava):
    form = "w9 {image}\nw8 {question} w7"
    assert text_of(llava, ASKED, form) == "w9 <image>\nw8 w1 w2 w7"
    batch = llava.batch([ASKED], template=form)
    ids, read = batch.inputs["input_ids"][0], llava.tokenizer.decode
    assert read(ids[batch.where("question")[0]]) == "w1 w2"
    assert read(ids[batch.where("m")[0]]) == "w2"
    assert [read(i) for i in ids[batch.where("special")[0]]][-3:] == ["w9", "w8", "w7"]
    plain = llava.batch([replace(ASKED, segments=(ASKED.segments[0], Segment("question", "w1 w2")))])
    assert int(batch.where("image").sum()) == int(plain.where("image").sum()) > 0


def test_a_form_of_the_raw_prompt_is_the_raw_prompt(llava):
    for example in (ASKED, replace(ASKED, segments=ASKED.segments[1:])):
        raw, same = (llava.batch([example], template=form) for form in ("raw", "{question}"))
        assert torch.equal(raw.inputs["input_ids"], same.inputs["input_ids"])
        assert torch.equal(raw.roles, same.roles)


def test_the_system_and_several_images(llava):
    two = replace(ASKED, segments=(Segment("system", "w5 "), *ASKED.segments, Segment("image", PICTURE)))
    assert text_of(llava, two, "{system}w9 {image} w8 {image} {question}") == "w5 w9 <image> w8 <image> w1 w2"
    assert text_of(llava, two, "{image} {question}") == "<image><image> w5 w1 w2"
    assert text_of(llava, two, "a {{b}} {question}") == "a {b} w5 <image>w1 w2<image>"
    said = replace(ASKED, segments=(*ASKED.segments, Segment("answer", " w6")))
    assert text_of(llava, said, "{question} w7") == "<image>w1 w2 w7 w6"


@pytest.mark.parametrize(
    "form", ["none", "{image}", "{question}{question}", "{question} {other}", "{question} {", "{}"]
)
def test_a_form_that_is_none(llava, form):
    with pytest.raises(UserError, match=re.escape(f"template {form!r}")):
        llava.batch([ASKED], template=form)


def test_a_form_asks_for_images_that_are_not_there(llava):
    with pytest.raises(UserError, match=r"example e: 1 image\(s\) for 2 × \{image\}"):
        llava.batch([ASKED], template="{image}{image}{question}")
    with pytest.raises(UserError, match=r"0 image\(s\)"):
        llava.batch([Example("e", "g", (Segment("text", "w1"),))], template="{image} {question}")


def test_an_image_token_without_an_image(llava):
    with pytest.raises(UserError, match="example e: <image> in the prompt without an image"):
        llava.batch([Example("e", "g", (Segment("text", "w1 <image> w2"),))])
    with pytest.raises(UserError, match="2 × <image> in the prompt for 1"):
        llava.batch([replace(ASKED, segments=(*ASKED.segments, Segment("text", " <image>")))])


# ---------------------------------------------------------------- several tokens

SHARED = Example("e", "g", (Segment("text", "w1 w2"),), " w5 w6 w7", (" w5 w6 w8", " w9"))


def test_what_answers_share_stands_behind_the_prompt():
    subject = tiny.subject()
    twin = replace(SHARED, id="t", answer=" w5 w6 w8", wrong=(" w5 w6 w7",))
    (found,) = first_difference(subject, [replace(SHARED, corrupt=twin)])
    assert (found.begun, found.answer, found.wrong) == (" w5 w6", " w7", (" w8",))
    assert (found.corrupt.begun, found.corrupt.answer) == (" w5 w6", " w8")
    batch, longer = subject.batch([found]), subject.batch(["w1 w2 w5 w6"])
    assert torch.equal(batch.inputs["input_ids"], longer.inputs["input_ids"])
    assert subject.tokenizer.decode(batch.inputs["input_ids"][0][batch.where("answer")[0]]) == "w5 w6"
    assert [subject.tokenizer.decode(i) for i in (batch.answers, batch.wrong)] == ["w7", "w8"]
    assert torch.equal(subject.last_logits(batch), subject.last_logits(longer))
    assert "1 of 1 answers are several tokens" in several_tokens(subject, [found])[0]


def test_answers_that_differ_at_once_stay(llava):
    subject, apart = tiny.subject(), replace(SHARED, wrong=(" w8 w9",))
    assert first_difference(subject, [apart]) == [apart]
    assert subject.tokenizer.decode(subject.batch([apart]).answers) == "w5"
    assert several_tokens(subject, [replace(SHARED, answer=" w5", wrong=())]) == []
    (opened,) = first_difference(llava, [replace(ASKED, answer=" w3 w5", wrong=(" w3 w6",))], template="{question}")
    assert opened.begun == " w3"


def test_answers_that_cannot_be_told_apart():
    subject = tiny.subject()
    with pytest.raises(UserError, match=r"' w5 w6 w7' and ' w5 w6 w8' begin with the same token: .*first_difference"):
        _ = subject.batch([SHARED]).answers
    with pytest.raises(UserError, match="begin alike to the end of one"):
        first_difference(subject, [replace(SHARED, wrong=(" w5 w6",))])


def test_a_shared_beginning_is_whole_tokens():
    """Letters that both begin with and that are no token of either are not split off."""
    subject = llama(byte_level())
    example = Example("e", "g", (Segment("text", "I"),), " think so", (" think no",))
    (found,) = first_difference(subject, [example])
    whole = subject.tokenizer.encode("I think so", add_special_tokens=False)
    opened = subject.tokenizer.encode("I" + found.begun, add_special_tokens=False)
    assert found.begun
    assert whole[: len(opened)] == opened
    assert found.begun + found.answer == " think so"
    ids = [subject.batch([found]).answers, subject.batch([found]).wrong]
    assert ids[0] != ids[1]


def test_summed_log_probability_is_the_product_of_steps():
    subject = tiny.subject()
    examples = [Example(f"e{i}", "g", (Segment("text", text),)) for i, text in enumerate(("w1 w2", "w3"))]
    found = summed_log_probability(subject, examples, [" w5 w6 w7", " w8"])

    def step(text, word):
        return subject.last_logits(subject.batch([text])).log_softmax(-1)[0, subject.tokenizer.encode(word)[-1]]

    by_hand = step("w1 w2", "w5") + step("w1 w2 w5", "w6") + step("w1 w2 w5 w6", "w7")
    torch.testing.assert_close(found, torch.stack([by_hand, step("w3", "w8")]))
    with pytest.raises(ValueError, match="1 words for 2"):
        summed_log_probability(subject, examples, [" w1"])


# ---------------------------------------------------------------- spelling


def spelled_by(form, monkeypatch, **asked):
    """A model that gives nine tenths to the answers of one form."""
    subject = llama(byte_level())
    example = Example("e", "g", (Segment("text", "I"),), "think")
    words = [WRITTEN[form](word) for word in (example.answer, *example.wrong)]

    def last_logits(batch):
        ids = [batch.first_token_of(batch.examples[0], word) for word in words]
        p = torch.full((1, subject.model.config.vocab_size), 0.1 / subject.model.config.vocab_size)
        p[0, ids] += 0.9 / len(ids)
        return p.log()

    monkeypatch.setattr(subject, "last_logits", last_logits)
    chosen, told = freely_spelled(subject, [example], template="raw", bos=(False,), **asked)
    return respelled([example], chosen)[0].answer, WRITTEN[form](example.answer), told[0]


@pytest.mark.parametrize("form", WRITTEN)
def test_answers_are_read_as_the_model_spells_them(form, monkeypatch):
    found, expected, told = spelled_by(form, monkeypatch)
    assert found == expected
    assert "of the probability behind 1 prompts" in told
    assert "mostly answers with others" not in told


def test_a_spelling_that_is_fixed_stays_and_a_little_probability_is_told(monkeypatch):
    found, _, told = spelled_by(list(WRITTEN)[1], monkeypatch, fixed=True)
    assert found == "think"
    assert "mostly answers with others" in told


def test_yes_and_no_are_not_respelled():
    asked = Example("e", "g", (Segment("text", "w1"),), " yes", (" no",))
    assert freely_spelled(tiny.subject(), [asked], template="raw", bos=(True,)) == (OWN, [])
    assert respelled([asked], list(WRITTEN)[2]) == [asked]
