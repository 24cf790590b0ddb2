"""One example to tokens: which role every token has, and which marks it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from ...data.errors import UserError
from ...data.example import Example
from ..model import vision_inputs
from .chat import Place, chat
from .form import filled
from .geometry.views import Geometry

if TYPE_CHECKING:
    from ..model.subject import Subject


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example with a role each, its marks as lists of the same length, the text they were, and where
    its pictures lie.
    """

    ids: list[int]
    roles: list[str]
    marks: dict[str, list[bool]]
    text: str = ""
    geometry: Geometry = field(default_factory=Geometry)


class Span(NamedTuple):
    """Characters [start, end) of the whole prompt."""

    start: int
    end: int
    name: str


def encode_text(subject: Subject, example: Example, template: str, bos: bool) -> Encoded:
    """Tokenise one example of text; UserError for a template the tokenizer does not have."""
    text, roles, marks = render(subject, example, template)
    tokenised = subject.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(tokenised["input_ids"]), list(tokenised["offset_mapping"])
    first_id = subject.tokenizer.bos_token_id
    if bos and first_id is not None and ids[:1] != [first_id]:
        ids, offsets = [first_id, *ids], [(0, 0), *offsets]
    if (holder := vision_inputs.placeholder_id(subject.model)) is not None and holder in ids:
        token = subject.tokenizer.convert_ids_to_tokens(holder)
        raise UserError(
            f"example {example.id}: {token} in the prompt without an image: an image is a segment of its own"
        )
    return label(subject, text, ids, offsets, roles, marks)


def label(
    subject: Subject,
    text: str,
    ids: list[int],
    offsets: list[tuple[int, int]],
    roles: Sequence[Span],
    marks: Sequence[Span],
) -> Encoded:
    """A role for every token, by where its characters lie in `text`, and its marks. UserError: one without a token."""
    special = set(subject.tokenizer.all_special_ids)
    own = ["special" if i in special else _role(text, span, roles) for i, span in zip(ids, offsets, strict=True)]
    for mark in marks:
        if not any(_touches(span, [mark], mark.name) for span in offsets):
            what = f"on {text[mark.start : mark.end]!r}" if mark.end > mark.start else "on nothing"
            raise UserError(f"the mark {mark.name!r} {what} touches no token of {text[-80:]!r}: mark other characters")
    names = {mark.name: None for mark in marks}
    return Encoded(ids, own, {name: [_touches(span, marks, name) for span in offsets] for name in names}, text)


def has_image(example: Example) -> bool:
    """Whether a segment of the example is an image."""
    return any(not isinstance(segment.content, str) for segment in example.segments)


def render(subject: Subject, example: Example, template: str) -> tuple[str, list[Span], list[Span]]:
    """The prompt as one string, with the character spans of its roles and of its marks.

    Where an image stands, the string has the processor's placeholder.
    """
    holder = str(getattr(subject.processor, "image_token", ""))  # BLIP-2 keeps an AddedToken
    texts = [segment.content if isinstance(segment.content, str) else holder for segment in example.segments]
    if template == "raw":
        text, places = "".join(texts), _in_a_row(texts)
    elif template == "chat":
        text, places = chat(subject, example, texts, holder)
    else:
        text, places = filled(template, example, texts)
    roles, marks = [], []
    for segment, place, piece in zip(example.segments, places, texts, strict=True):
        roles.append(Span(*place.put(0, len(piece)), segment.role))
        for name, spans in segment.marks.items():
            marks.extend(Span(*place.put(a, b), name) for a, b in spans)
    if example.begun:
        roles.append(Span(len(text), len(text) + len(example.begun), "answer"))
    return text + example.begun, roles, marks


def _in_a_row(texts: Sequence[str]) -> list[Place]:
    """The places of texts that follow each other."""
    ends = list(accumulate(map(len, texts)))
    return [Place(end - len(text), 0, ends[-1]) for text, end in zip(texts, ends, strict=True)]


def _role(text: str, span: tuple[int, int], roles: Sequence[Span]) -> str:
    """The role of a token's first character that is not a space; text outside all segments is the template's."""
    start, end = span
    while start < end - 1 and text[start].isspace():
        start += 1
    return next((role.name for role in roles if role.start <= start < role.end), "special")


def _touches(span: tuple[int, int], marks: Sequence[Span], name: str) -> bool:
    return any(mark.name == name and span[0] < mark.end and mark.start < span[1] for mark in marks)
