"""What the examples of every task have to be, whoever wrote it: checked once, before a model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from .errors import UserError
from .example import ROLES, Example, Segment

OWN = ("id", "group", "condition")  # columns that a run has by itself


def require_examples(task: str, examples: Sequence[Any]) -> None:
    """UserError: what is no Example, two with one id, or one whose parts are not what they should be."""
    seen: set[str] = set()
    for at, example in enumerate(examples, start=1):
        if not isinstance(example, Example):
            raise UserError(f"task {task}: its example {at} is {type(example).__name__}, an Example is needed")
        if example.id in seen:
            raise UserError(f"task {task} gives two examples the same id, {example.id!r}")
        seen.add(example.id)
        if taken := set(OWN) & set(example.meta):
            raise UserError(f"task {task}: meta {sorted(taken)[0]!r} is what a run calls a column of its own")
        for prompt in (example, *([example.corrupt] if example.corrupt else [])):
            _require_sound(prompt, f"task {task}, example {prompt.id}")


def _require_sound(example: Example, at: str) -> None:
    for name, word in (("answer", example.answer), *(("wrong answer", word) for word in example.wrong)):
        if not isinstance(word, str):
            raise UserError(f"{at}: the {name} {word!r} is {type(word).__name__}, text is needed")
    for segment in example.segments:
        _require_segment(segment, at)
    images = [image for image in example.images if isinstance(image, Image)]
    if len(images) != 1:
        return
    width, height = images[0].size
    for name, boxes in example.boxes.items():
        for box in boxes:
            left, top, right, bottom = box
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise UserError(
                    f"{at}: the box {name!r} {tuple(box)} lies outside its picture of {width} × {height} pixels"
                )


def _require_segment(segment: Segment, at: str) -> None:
    if segment.role not in ROLES[3:]:
        raise UserError(f"{at}: no role {segment.role!r}; there are {', '.join(ROLES[3:])}")
    for name, spans in segment.marks.items():
        for start, end in spans:
            if not isinstance(segment.content, str) or not 0 <= start <= end <= len(segment.content):
                raise UserError(f"{at}: the mark {name!r} [{start}, {end}] lies outside its text")
