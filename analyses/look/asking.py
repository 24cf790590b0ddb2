"""What is asked of one prompt: the question with its pictures, the answer, and the same prompt with its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

from PIL import Image

from ...data import subjects
from ...data.errors import UserError
from ...data.example import Example, Segment
from ...data.subjects import EMBEDDED
from ...data.templates import led
from ...probes.prompts.batch import Batch
from ...probes.prompts.bos import conditions
from ...probes.prompts.image_ablation import predicting
from ...probes.runs.answers import own_answers, with_answers
from ..common.controls import another_question, blank_image

BLANK = (128, 128, 128)
PROMPTS = ("asked", "general", "blank")


class Asked(NamedTuple):
    """prompts: one batch of the three prompts, each with the answer. answer: its text. given: it was not generated.
    cut: the limit of tokens ended it. same: it reads back as the tokens that were generated.
    """

    prompts: Batch
    answer: str
    given: bool
    cut: bool
    same: bool


def prompt(question: str, images: Sequence[Image.Image] = ()) -> Example:
    """One question behind its pictures. UserError: no question."""
    if not question.strip():
        raise UserError('name a question or a prompt: crosslens look "What colour is the circle?" --image FILE')
    role = "question" if images else "text"
    segments = (*(Segment("image", image) for image in images), Segment(role, question))
    return Example("look", "look", segments)


def usual_form(subject: Any, example: Example) -> str:
    """The form of an embedded subject's prompts where it has one, "chat" for a question about a picture where the model
    has a chat template, else "raw".
    """
    if not example.images:
        return "raw"
    home = EMBEDDED.get(subject.name)
    own = getattr(import_module(f"{subjects.__name__}.{home}"), "FORM", None) if home else None
    owners = (subject.processor, subject.tokenizer)
    return own or ("chat" if any(getattr(owner, "chat_template", None) for owner in owners) else "raw")


def ask(
    subject: Any, example: Example, answer: str, tokens: int, template: str | None, bos: bool | None, general: str
) -> Asked:
    """The prompt with its answer, generated greedily where none is given, and its controls in one batch.

    general: another question about the same picture; blank: the question about plain grey pictures of the same sizes.
    UserError: nothing is answered, or the answer reads as other tokens behind a control.
    """
    form = template or usual_form(subject, example)
    (with_bos,) = conditions(subject, form, None if bos is None else (bos,))
    text, cut, same = led(answer, form, example.text), False, True
    if not answer:
        said = own_answers(subject, [example], tokens, template=form, bos=with_bos)[example.id]
        if not said.text.strip():
            raise UserError(f"{subject.name} answers nothing to this question: give the answer, --answer TEXT")
        text, cut, same = said.text, said.cut, said.same
    (whole,) = with_answers([example], {example.id: text})
    other = another_question(whole, general)
    assert other is not None
    variants = (whole, other, blank_image(whole, BLANK))
    named = [replace(one, id=f"look, {name}") for name, one in zip(PROMPTS, variants, strict=True)]
    batch = subject.batch(named, template=form, bos=with_bos)
    _require_behind(subject, example, batch)
    _require_alike(batch)
    return Asked(batch, text, bool(answer), cut, same)


def _require_behind(subject: Any, example: Example, batch: Batch) -> None:
    """UserError where a chat template writes an answer elsewhere than where the model begins one."""
    form = {name: batch.form[name] for name in ("template", "bos")}
    begun = subject.batch([example], **form).inputs["input_ids"][0].tolist()
    if batch.inputs["input_ids"][0, : len(begun)].tolist() != begun:
        raise UserError(
            f"{subject.name}: behind an answer its template {form['template']!r} writes another prompt than the model "
            "answers to: name the form yourself, --template 'USER: {image}\\n{question} ASSISTANT:'"
        )


def _require_alike(batch: Batch) -> None:
    """UserError where the three prompts have other answer tokens or other numbers of image tokens."""
    ids, places = batch.inputs["input_ids"], predicting(batch)
    said = [row[mask].tolist() for row, mask in zip(ids, batch.where("answer"), strict=True)]
    if not said[0]:
        raise UserError("the answer has no token of its own: give another one, --answer TEXT")
    if any(one != said[0] for one in said) or bool((places < 0).any()):
        raise UserError(
            "the answer reads as other tokens behind the general question: give another one, --general TEXT"
        )
    counts = batch.where("patches").sum(1).tolist()
    if len(set(counts)) > 1:
        raise UserError(
            f"plain grey pictures become {counts[2]} image tokens, the own ones {counts[0]}: this processor chooses "
            "tokens by content, so there is nothing to compare with"
        )
