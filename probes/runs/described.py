"""What a page shows before any number: what the model is, and one example of the task as the model is given it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...data.example import Example
from ...data.images import rgb
from ...data.subjects import EMBEDDED
from ..prompts.text_prompts import Span, render

if TYPE_CHECKING:
    from ..model.subject import Subject

IMAGE = "<image>"  # what stands for an image in the example's text
LONGEST, OPTIONS = 8_000, 8  # characters of an example that is shown, wrong answers of it
SIDES, BYTES = (160, 112, 80, 48), 20_000  # of the picture


def described(subject: Subject) -> dict[str, Any]:
    """What a page says of a model and no number depends on: parameters, kind, origin. None of it is in a run's key."""
    sees = hasattr(subject.model.config, "vision_config") or hasattr(subject.processor, "image_processor")
    return {
        "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
        "kind": "vision-language" if sees else "language",
        "origin": _origin(subject),
    }


def _origin(subject: Subject) -> str:
    """Where the model is from; of a local one that it is local, never its path."""
    if subject.name in EMBEDDED and (subject.opened or {}).get("name") == subject.name:
        home = import_module(f"....data.subjects.{EMBEDDED[subject.name]}", __name__)
        title = (home.__doc__ or "").strip().splitlines()[0].removeprefix("The embedded ").rstrip(".")
        return f"embedded: {getattr(home, 'SOURCE', title)}"
    if subject.location:
        return "directory"
    return f"Hugging Face: {subject.name}" if subject.opened else "in memory"


def shown_example(subject: Subject, examples: Sequence[Example], template: str, bos: bool) -> dict[str, Any] | None:
    """The first example that is not too long, as plain values: id, segments ([text, role], roles as `Batch.roles` has
    them, an image as ["<image>", "image"]), spans ([name, start, end] in the joined text), answer, wrong, twin
    (segments), picture (a PNG as data address). None where all are too long.
    """
    example = next((e for e in examples if len(e.text) <= LONGEST), None)
    if example is None:
        return None
    segments, spans = _laid_out(subject, example, template, bos)
    twin = None if example.corrupt is None else _laid_out(subject, example.corrupt, template, bos)[0]
    return {
        "id": example.id,
        "segments": segments,
        "spans": spans,
        "answer": plain(example.answer),
        "wrong": [plain(word) for word in example.wrong[:OPTIONS]],
        "twin": twin,
        "picture": picture(example.images[0], example.id) if example.images else None,
    }


def _laid_out(subject: Subject, example: Example, template: str, bos: bool) -> tuple[list[list[str]], list[list[Any]]]:
    """Segments of the whole prompt, what the template adds as "special"; and its marks in their joined text."""
    text, roles, marks = render(subject, example, template)
    first = str(getattr(subject.tokenizer, "bos_token", None) or "")
    segments = [[first, "special"]] if bos and first and not text.startswith(first) else []
    starts = {}  # of the prompt's characters, where a segment's begins in the joined text
    at = 0
    for role in [*roles, Span(len(text), len(text), "")]:
        if role.start > at:
            starts[at] = _length(segments)
            segments.append([text[at : role.start], "special"])
        if role.name and (role.end > role.start or role.name == "image"):
            starts[role.start] = _length(segments)
            segments.append([IMAGE if role.name == "image" else text[role.start : role.end], role.name])
        at = max(at, role.end)
    return [[plain(said), role] for said, role in segments], [_moved(mark, starts) for mark in marks]


def _length(segments: Sequence[Sequence[str]]) -> int:
    return sum(len(said) for said, _ in segments)


def _moved(mark: Span, starts: dict[int, int]) -> list[Any]:
    """A mark of the prompt's characters as one of the joined text's."""
    begin = max(start for start in starts if start <= mark.start)
    move = starts[begin] - begin
    return [mark.name, mark.start + move, mark.end + move]


def plain(text: str) -> str:
    """A text that can be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def picture(image: Image.Image, name: str) -> str:
    """The image as a data address of at most `BYTES` bytes: as large as it may be, then with fewer colours."""
    pixels, data = rgb(image, f"example {name}: the image"), ""
    for side in SIDES:
        small = pixels.copy()
        small.thumbnail((side, side))
        for colours in (None, 64):
            file = io.BytesIO()
            (small if colours is None else small.quantize(colours)).save(file, "PNG", optimize=True)
            data = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
            if len(data) <= BYTES:
                return data
    return data
