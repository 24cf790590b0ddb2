"""One prompt of a task: who says what, which spans have a name, and what the right answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL.Image import Image

from .tokens import ids_in_text

# What a position of a prompt can be; a segment has one of those from "system" on.
ROLES = ("pad", "special", "image_separator", "system", "image", "text", "question", "instruction", "answer")


class Segment(NamedTuple):
    """A stretch of a prompt with one role.

    role: "system", "image", "text", "question", "instruction" or "answer".
    content: the text, or the image.
    marks: name -> character spans [start, end) inside this segment's text, e.g. {"subject": [(4, 8)]}.
    """

    role: str
    content: str | Image
    marks: Mapping[str, Sequence[tuple[int, int]]] = {}


class Objects(NamedTuple):
    """What a caption of an image is held to.

    words: every word or phrase that names an object, in lower case -> the object; "" for a phrase that names none and
    hides its words. there: the objects in the image.
    """

    words: Mapping[str, str]
    there: frozenset[str]


@dataclass(frozen=True, eq=False)
class Example:
    """One prompt with its answer.

    group: what repeats across examples (image, template, passage); intervals resample groups, not examples.
    answer, wrong: continuations of the prompt, leading space included (" Mary"); "" where none is asked.
    begun: what of the answer stands behind the prompt already, where answer and wrong begin alike (`first_difference`).
    corrupt: the twin of equal length whose answer differs.
    boxes: name -> [(left, top, right, bottom)] in pixels of the image.
    meta: what a table may split by, e.g. {"relation": "capital"}.
    objects: what a caption may name, and what it would be right to name. unrelated: images of another group's
    example, as many and as large as its own, for controls; `Task.examples` fills it.
    """

    id: str
    group: str
    segments: tuple[Segment, ...]
    answer: str = ""
    wrong: tuple[str, ...] = ()
    corrupt: Example | None = None
    boxes: Mapping[str, Sequence[tuple[int, int, int, int]]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    objects: Objects | None = None
    unrelated: tuple[Image, ...] = ()
    begun: str = ""

    @property
    def images(self) -> tuple[Image, ...]:
        """The prompt's images, in order."""
        return tuple(s.content for s in self.segments if not isinstance(s.content, str))

    @property
    def text(self) -> str:
        """The prompt's text without images."""
        return "".join(s.content for s in self.segments if isinstance(s.content, str))


def is_single_token(tokenizer: Any, word: str) -> bool:
    """Whether `word` (leading space included) is one token of this tokenizer inside a text."""
    return len(ids_in_text(tokenizer, word)) == 1
