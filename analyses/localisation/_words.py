"""The words of the question that maps follow: those that name what is asked for, in the stretch that they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ...data.example import Example
from ...probes.prompts.batch import Batch
from ..common.controls import another_question

Asked = tuple[str, tuple[tuple[int, int], ...]]  # a question, and where in it the words of the mark stand


class Stretch(NamedTuple):
    """positions: the token before the question and the question's. words: those that are followed, counted from the
    question's first.
    """

    positions: Int[Tensor, " n"]
    words: Int[Tensor, " w"]


@lru_cache(maxsize=4)  # every layer asks for the same
def stretches(batch: Batch, mark: str) -> list[Stretch | None]:
    """Of each example the first unbroken run of its question, its marked words, or all where none has that mark.

    A word directly behind the image is left out: before it nothing was read of the text. None: no such run.
    """
    question, marked = batch.where("question"), batch.marks.get(mark)
    barred = batch.where("image") | batch.where("image_separator") | ~batch.mask
    return [_stretch(question[i], barred[i], None if marked is None else marked[i]) for i in range(len(question))]


def _stretch(question: Tensor, barred: Tensor, marked: Tensor | None) -> Stretch | None:
    asked = question.nonzero()[:, 0].tolist()
    if asked and (asked[0] == 0 or bool(barred[asked[0] - 1])):
        asked = asked[1:]
    run = [p for i, p in enumerate(asked) if p == asked[0] + i]
    if not run:
        return None
    positions = torch.arange(run[0] - 1, run[-1] + 1)
    named = torch.zeros(len(run), dtype=torch.bool) if marked is None else marked[positions[1:]]
    return Stretch(positions, (named if bool(named.any()) else ~named).nonzero()[:, 0])


def asked_of(example: Example, mark: str) -> Asked:
    """The example's first question, "" without one, and the spans of its marked words."""
    for segment in example.segments:
        if segment.role == "question":
            text = str(segment.content)
            lead = len(text) - len(text.lstrip())
            return text.strip(), tuple((a - lead, b - lead) for a, b in segment.marks.get(mark, ()))
    return "", ()


def asking(example: Example, question: str, spans: Sequence[Sequence[int]] = (), mark: str = "") -> Example | None:
    """The example with another first question, the words of these spans marked; None without a question."""
    changed = another_question(example, question)
    if changed is None or not spans:
        return changed
    (at,) = (i for i, segment in enumerate(changed.segments) if segment.role == "question")
    segments = list(changed.segments)
    lead = len(str(segments[at].content)) - len(question)
    segments[at] = segments[at]._replace(marks={mark: [(a + lead, b + lead) for a, b in spans]})
    return replace(changed, segments=tuple(segments))
