"""From a row of a user's file or data set to an example: what every column may hold, and what is refused, by place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from .broken import first_of
from .errors import UserError
from .example import Example, Segment
from .local_or_hub import Row
from .own_cells import either, images_of, listed, object_of, plain, text, texts, told
from .own_marks import boxes_of, has_words, spans_of
from .templates import led

IMAGE = "<image>"  # where in a prompt an image stands; without it they stand before the prompt


@dataclass(frozen=True)
class Columns:
    """What a file's columns are called."""

    id: str = "id"
    prompt: str = "prompt"
    image: str = "image"
    answer: str = "answer"
    wrong: str = "wrong"
    corrupt_prompt: str = "corrupt_prompt"
    corrupt_image: str = "corrupt_image"
    corrupt_answer: str = "corrupt_answer"
    group: str = "group"
    boxes: str = "boxes"
    marks: str = "marks"
    system: str = "system"

    def names(self) -> list[str]:
        return [getattr(self, one.name) for one in fields(self)]


@dataclass(frozen=True)
class Reading:
    """How rows become examples.

    task: begins the ids. home: the folder that pictures are named from. question: the prompt of every row, "" where a
    column has it. prefix: what stands before answers; None as `templates.led` says for the template. first: the row
    whose columns the others have too.
    """

    task: str
    columns: Columns
    home: Path
    question: str = ""
    prefix: str | None = None
    template: str = "raw"
    first: Row | None = None

    def example(self, row: Row) -> Example:
        """UserError: a column that is missing or does not hold what it should, by the row's place."""
        cells, at = row.read(), row.where
        self._require_columns(cells, at)
        prompt = self.question or text(cells, self.columns.prompt, at)
        images = images_of(either(cells, self.columns.image), self.home, f"{at}, column {self.columns.image!r}")
        name = f"{self.task}-{plain(cells.get(self.columns.id)) or row.name}"
        answer, wrong = self._answers(cells, prompt, at)
        marks = spans_of(object_of(cells, self.columns.marks, at), prompt, at)
        boxes = boxes_of(object_of(cells, self.columns.boxes, at), [image.size for image in images], at)
        segments = self._segments(cells, prompt, images, marks, at)
        example = Example(name, self._group(cells, images, name), segments, answer, wrong, boxes=boxes)
        example = replace(example, meta=self._meta(cells, at))
        twin = self._twin(example, cells, prompt, images, at)
        return replace(example, corrupt=twin) if twin else example

    def _require_columns(self, cells: Mapping[str, Any], at: str) -> None:
        """A row has a prompt, the columns that the user names, and those of ours that the first row has."""
        ours = [one for one in self.columns.names() if one not in Columns().names()]
        ours += [self.columns.prompt] if not self.question else []
        known = self.first.read() if self.first else {}
        for name in [*ours, *(n for n in self.columns.names() if n in known)]:
            if name not in cells:
                there = ", ".join(map(str, cells)) or "none"
                raise UserError(f"{at}: no column {name!r}; there are {there}")

    def _answers(self, cells: Mapping[str, Any], prompt: str, at: str) -> tuple[str, tuple[str, ...]]:
        column = self.columns.answer
        answer = text(cells, column, at) if column in cells else ""
        wrong = texts(listed(cells, self.columns.wrong, at), self.columns.wrong, at)
        if wrong and not answer:
            raise UserError(f"{at}: wrong answers, but no column {column!r}")
        if answer in wrong:
            raise UserError(f"{at}: the answer {answer!r} is among the wrong ones")
        right, *others = (led(word, self.template, prompt, self.prefix) for word in (answer, *wrong))
        return right, tuple(others)

    def _segments(
        self, cells: Mapping[str, Any], prompt: str, images: Sequence[Image], marks: Mapping[str, Any], at: str
    ) -> tuple[Segment, ...]:
        system = cells.get(self.columns.system)
        before = (Segment("system", text(cells, self.columns.system, at)),) if system else ()
        return (*before, *_laid_out(prompt, images, marks, at))

    def _group(self, cells: Mapping[str, Any], images: Sequence[Image], name: str) -> str:
        """As the file says, else by the pictures' content, else every row is a group."""
        said = plain(cells.get(self.columns.group))
        if said or not images:
            return said or name
        digest = hashlib.sha256()
        for image in images:
            digest.update(repr(image.size).encode() + image.tobytes())
        return f"image-{digest.hexdigest()[:12]}"

    def _meta(self, cells: Mapping[str, Any], at: str) -> dict[str, Any]:
        """All further columns; lists as JSON, pictures left out."""
        further = {name: value for name, value in cells.items() if name not in {*self.columns.names(), "images"}}
        if "condition" in further:
            raise UserError(f"{at}: a column 'condition' is what a run calls a column of its own: rename it")
        kept = {name: told(value) for name, value in further.items()}
        return {name: value for name, value in kept.items() if value is not None}

    def _twin(
        self, example: Example, cells: Mapping[str, Any], prompt: str, images: Sequence[Image], at: str
    ) -> Example | None:
        """The same with another prompt or image; its answer is the example's first wrong one where none is named."""
        names = self.columns
        given = {name: cells.get(name) for name in (names.corrupt_prompt, names.corrupt_image)}
        if not any(given.values()):
            return None
        other = text(cells, names.corrupt_prompt, at) if given[names.corrupt_prompt] else prompt
        place = f"{at}, column {names.corrupt_image!r}"
        shown = images_of(given[names.corrupt_image], self.home, place) or list(images)
        if [image.size for image in shown] != [image.size for image in images]:
            raise UserError(f"{at}: the corrupt pictures are not as many and as large as the row's own")
        marks = object_of(cells, names.marks, at) or {}
        kept = {name: one for name, one in marks.items() if other == prompt or has_words(one, other)}
        segments = self._segments(cells, other, shown, spans_of(kept, other, at), at)
        said = text(cells, names.corrupt_answer, at) if cells.get(names.corrupt_answer) else ""
        answer = led(said, self.template, other, self.prefix) or next(iter(example.wrong), "")
        wrong = (example.answer,) if example.answer and answer else ()
        return Example(f"{example.id}-corrupt", example.group, segments, answer, wrong, meta=example.meta)


def examples_of(
    rows: Sequence[Row], reading: Reading, *, n: int | None, split: str, broken: list[str] | None
) -> list[Example]:
    """The first n examples of the rows in order, or of split "validation" from the end. broken: as `sound` has it.

    UserError: a row that is not as it should be, or has the id of another.
    """
    seen: dict[str, str] = {}

    def make(row: Row) -> Example:
        example = reading.example(row)
        first = seen.setdefault(example.id, row.where)
        if first != row.where:
            raise UserError(f"{row.where}: the id {example.id!r} is that of {first} too")
        return example

    return first_of(rows, make, n, split, broken)


def _laid_out(prompt: str, images: Sequence[Image], marks: Mapping[str, Any], at: str) -> list[Segment]:
    """Text and images in order; every mark lies in one text."""
    role = "question" if images else "text"
    if IMAGE not in prompt:
        return [*(Segment("image", image) for image in images), Segment(role, prompt, marks)]
    pieces = prompt.split(IMAGE)
    if len(pieces) - 1 != len(images):
        raise UserError(f"{at}: {len(pieces) - 1} × {IMAGE} in the prompt for {len(images)} image(s)")
    segments, start, left = [], 0, sum(map(len, marks.values()))
    for i, piece in enumerate(pieces):
        end = start + len(piece)
        inside = {
            n: [(a - start, b - start) for a, b in spans if start <= a and b <= end] for n, spans in marks.items()
        }
        left -= sum(map(len, inside.values()))
        segments += [Segment(role, piece, {n: spans for n, spans in inside.items() if spans})] if piece else []
        segments += [Segment("image", images[i])] if i < len(images) else []
        start = end + len(IMAGE)
    if left:
        raise UserError(f"{at}: a mark lies across {IMAGE}")
    return segments
