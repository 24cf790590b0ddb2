"""From a row of a user's file or data set to an example: what every column may hold, and what is refused, by place."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from .errors import UserError
from .example import Example, Segment
from .images import open_image, open_picture, rgb
from .local_or_hub import Row
from .own_marks import boxes_of, spans_of
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
        prompt = self.question or _text(cells, self.columns.prompt, at)
        images = _images(_either(cells, self.columns.image), self.home, f"{at}, column {self.columns.image!r}")
        name = f"{self.task}-{_plain(cells.get(self.columns.id)) or row.name}"
        answer, wrong = self._answers(cells, prompt, at)
        marks = spans_of(_json(cells, self.columns.marks, at), prompt, at)
        boxes = boxes_of(_json(cells, self.columns.boxes, at), [image.size for image in images], at)
        segments = self._segments(cells, prompt, images, marks, at)
        example = Example(name, self._group(cells, images, name), segments, answer, wrong, boxes=boxes)
        example = replace(example, meta=self._meta(cells, at))
        twin = self._twin(example, cells, prompt, images, at)
        return replace(example, corrupt=twin) if twin else example

    def _require_columns(self, cells: Mapping[str, Any], at: str) -> None:
        """A row has those of our columns that the first row has, if only empty."""
        ours = [self.columns.prompt] if not self.question else []
        known = self.first.read() if self.first else {}
        for name in [*ours, *(n for n in self.columns.names() if n in known)]:
            if name not in cells:
                there = ", ".join(map(str, cells)) or "none"
                raise UserError(f"{at}: no column {name!r}; there are {there}")

    def _answers(self, cells: Mapping[str, Any], prompt: str, at: str) -> tuple[str, tuple[str, ...]]:
        column = self.columns.answer
        answer = _text(cells, column, at) if column in cells else ""
        wrong = _texts(_listed(cells, self.columns.wrong, at), self.columns.wrong, at)
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
        before = (Segment("system", _text(cells, self.columns.system, at)),) if system else ()
        return (*before, *_laid_out(prompt, images, marks, at))

    def _group(self, cells: Mapping[str, Any], images: Sequence[Image], name: str) -> str:
        """As the file says, else by the pictures' content, else every row is a group."""
        said = _plain(cells.get(self.columns.group))
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
        kept = {name: _told(value) for name, value in further.items()}
        return {name: value for name, value in kept.items() if value is not None}

    def _twin(
        self, example: Example, cells: Mapping[str, Any], prompt: str, images: Sequence[Image], at: str
    ) -> Example | None:
        """The same with another prompt or image; its answer is the example's first wrong one where none is named."""
        names = self.columns
        given = {name: cells.get(name) for name in (names.corrupt_prompt, names.corrupt_image)}
        if not any(given.values()):
            return None
        other = _text(cells, names.corrupt_prompt, at) if given[names.corrupt_prompt] else prompt
        shown = _images(given[names.corrupt_image], self.home, f"{at}, column {names.corrupt_image!r}") or list(images)
        if [image.size for image in shown] != [image.size for image in images]:
            raise UserError(f"{at}: the corrupt pictures are not as many and as large as the row's own")
        words = {name: value for name, value in (_json(cells, names.marks, at) or {}).items() if _is_word(value, other)}
        segments = self._segments(cells, other, shown, spans_of(words, other, at), at)
        said = _text(cells, names.corrupt_answer, at) if cells.get(names.corrupt_answer) else ""
        answer = led(said, self.template, other, self.prefix) or next(iter(example.wrong), "")
        wrong = (example.answer,) if example.answer and answer else ()
        return Example(f"{example.id}-corrupt", example.group, segments, answer, wrong, meta=example.meta)


def _is_word(value: Any, prompt: str) -> bool:
    """Whether a mark is a word, or words, that another prompt has too."""
    words = [value] if isinstance(value, str) else value
    return isinstance(words, list) and all(isinstance(word, str) and word in prompt for word in words)


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


def _either(cells: Mapping[str, Any], name: str) -> Any:
    """The column, or "images" where it has its usual name."""
    return cells.get(name) if name != "image" or cells.get(name) is not None else cells.get("images")


def _images(value: Any, home: Path, at: str) -> list[Image]:
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, at)
    return [_picture(one, home, at) for one in (value if isinstance(value, list | tuple) else [value])]


def _picture(value: Any, home: Path, at: str) -> Image:
    """A path, a picture, or what `datasets` keeps of one that is not decoded."""
    try:
        if isinstance(value, Image):
            return rgb(value, "the image")
        if isinstance(value, Mapping) and value.get("bytes"):
            return open_picture(io.BytesIO(value["bytes"]), "the image")
        path = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(path, str):
            raise UserError(f"{type(path).__name__} is no picture: the path of a file is needed")
        if "://" in path:
            raise UserError(f"{path} is an address: save the picture and name the file")
        return open_image(home / Path(path).expanduser())
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def _text(cells: Mapping[str, Any], column: str, at: str) -> str:
    value = cells.get(column)
    if value is None or value == "":
        raise UserError(f"{at}: the column {column!r} is empty" if column in cells else f"{at}: no column {column!r}")
    return _texts([value], column, at)[0]


def _texts(values: Sequence[Any], column: str, at: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise UserError(
                f"{at}, column {column!r}: {value!r} is {type(value).__name__}, text is needed: put it in quotes"
            )
        if not value.strip():
            raise UserError(f"{at}, column {column!r}: the text is empty")
    return list(values)


def _listed(cells: Mapping[str, Any], column: str, at: str) -> list[Any]:
    """One text, or a list of them; in a cell as JSON."""
    value = cells.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, f"{at}, column {column!r}")
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _json(cells: Mapping[str, Any], column: str, at: str) -> dict[str, Any] | None:
    """An object; in a cell as JSON."""
    value = cells.get(column)
    if value is None or value == "":
        return None
    value = _parsed(value, f"{at}, column {column!r}") if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise UserError(f"{at}, column {column!r}: an object {{name: …}} is needed, not {str(value)[:60]}")
    return {name: one for name, one in value.items() if one is not None}


def _parsed(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{at}: not JSON: {error}") from error


def _plain(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _told(value: Any) -> Any:
    """A cell as a table keeps it; None for what it cannot."""
    if isinstance(value, str | int | float | bool):
        return value
    try:
        return None if value is None else json.dumps(value, ensure_ascii=False)
    except TypeError:
        return None
