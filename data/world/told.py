"""Scenes without a second picture: the same scene told in words, and another question about the same scene."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import UserError
from ..templates import Spans, token_count
from .questions import Question, answer, ask, named_things, twin
from .world import Scene, Thing

# What words tell: which things there are, in which colours; neither places, nor faintness, nor size.
TOLD = ("colour", "shape", "existence", "coloured_existence", "pope_random", "pope_popular", "pope_adversarial")
ALONE = ("count", "caption")  # kinds that have one question
BEFORE = "Image: "
TWINS, FORMS = ("image", "question"), ("image", "words")
TRIES = 64


class Made(NamedTuple):
    """How the prompts of a run are made; the options of the task `scenes`."""

    tokenizer: Any
    size: int
    twin: str
    form: str
    choices: bool = False

    def length(self, text: str) -> int:
        """In tokens; in words where no tokenizer is given."""
        return len(text.split()) if self.tokenizer is None else token_count(self.tokenizer, text)


def told(scene: Scene, asked: list[Thing]) -> tuple[str, Spans]:
    """ "Image: a red circle, an orange star.", and where the asked and the other things stand, as boxes are called."""
    text, spans = BEFORE, {}
    for i, (thing, name) in enumerate(named_things(scene)):
        text += ", " * (i > 0)
        mark = "asked_object" if thing in asked else "other_objects"
        spans.setdefault(mark, []).append((len(text), len(text) + len(name)))
        text += name
    return text + ".", spans


def other_question(
    question: Question, scene: Scene, rng: random.Random, length: Callable[[str], int]
) -> Question | None:
    """Another question of the kind about the same scene, as long and with another answer; None where there is none."""
    for _ in range(TRIES):
        other = ask(question.kind, scene, rng)
        if other is None or answer(other, scene) == answer(question, scene):
            continue
        if length(other.text()[0]) == length(question.text()[0]):
            return other
    return None


def twin_of(question: Question, scene: Scene, rng: random.Random, make: Made) -> tuple[Question, Scene] | None:
    """What the corrupt twin asks, and about which scene; None where the scene allows none."""
    if make.twin == "image":
        return question, twin(question, scene, rng)
    other = other_question(question, scene, rng, make.length)
    return None if other is None else (other, scene)


def with_choices(text: str, choices: Sequence[str], right: str) -> tuple[str, Spans]:
    """ "… Select one: blue, red.", and where the right answer and the wrong one stand; the text itself without any."""
    spans: Spans = {}
    for i, choice in enumerate(choices):
        text += ", " if i else " Select one: "
        spans.setdefault("true_option" if choice == right else "false_option", []).append(
            (len(text), len(text) + len(choice))
        )
        text += choice
    return text + "." * bool(choices), spans


def require_told(kinds: Sequence[str], twin: str, form: str, *, choices: bool = False) -> None:
    """UserError: an unknown twin or form, or a kind that has none such."""
    if choices and "caption" in kinds:
        raise UserError("scenes: a caption has no other answer to choose from, so no choices: leave it out of kinds")
    for what, given, known in (("twin", twin, TWINS), ("form", form, FORMS)):
        if given not in known:
            raise UserError(f"scenes: no {what} {given!r}; there are {', '.join(known)}")
    if twin == "question" and (alone := [kind for kind in kinds if kind in ALONE]):
        raise UserError(f"scenes: {alone[0]} has one question alone, so no twin=question: leave it out of kinds")
    if form == "words" and (more := [kind for kind in kinds if kind not in TOLD]):
        raise UserError(f"scenes: form=words does not tell what {more[0]} asks for; kinds are {', '.join(TOLD)}")
