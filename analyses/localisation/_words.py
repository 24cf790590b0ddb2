"""What is asked of an example: its question and the words that name it; and the example with another question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...data.example import Example
from ..common.controls import another_question

Asked = tuple[str, tuple[tuple[int, int], ...]]  # a question, and where in it the words of the mark stand


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
