"""One example to tokens: which role every token has, and which marks it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.example import Example, UserError

if TYPE_CHECKING:
    from .subject import Subject


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example with a role each, and its marks as lists of the same length."""

    ids: list[int]
    roles: list[str]
    marks: dict[str, list[bool]]


class Span(NamedTuple):
    """Characters [start, end) of the whole prompt."""

    start: int
    end: int
    name: str


def encode(subject: Subject, example: Example, template: str, bos: bool) -> Encoded:
    """Tokenise one example; UserError for a template the tokenizer does not have."""
    if has_image(example):
        from .expand import expand

        return expand(subject, [example], template, bos)[0][0]
    text, roles, marks = render(subject, example, template)
    tokenised = subject.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(tokenised["input_ids"]), list(tokenised["offset_mapping"])
    first_id = subject.tokenizer.bos_token_id
    if bos and first_id is not None and ids[:1] != [first_id]:
        ids, offsets = [first_id, *ids], [(0, 0), *offsets]
    return label(subject, text, ids, offsets, roles, marks)


def label(
    subject: Subject,
    text: str,
    ids: list[int],
    offsets: list[tuple[int, int]],
    roles: Sequence[Span],
    marks: Sequence[Span],
) -> Encoded:
    """A role for every token, by where its characters lie in `text`, and its marks."""
    special = set(subject.tokenizer.all_special_ids)
    own = ["special" if i in special else _role(text, span, roles) for i, span in zip(ids, offsets, strict=True)]
    names = {mark.name: None for mark in marks}
    return Encoded(ids, own, {name: [_touches(span, marks, name) for span in offsets] for name in names})


def has_image(example: Example) -> bool:
    """Whether a segment of the example is an image."""
    return any(not isinstance(segment.content, str) for segment in example.segments)


def render(subject: Subject, example: Example, template: str) -> tuple[str, list[Span], list[Span]]:
    """The prompt as one string, with the character spans of its roles and of its marks.

    Where an image stands, the string has the processor's placeholder.
    """
    holder = getattr(subject.processor, "image_token", "")
    texts = [segment.content if isinstance(segment.content, str) else holder for segment in example.segments]
    if template == "raw":
        text, starts = "".join(texts), _raw_starts(texts)
    elif template == "chat":
        text, starts = _chat(subject, example, texts)
    else:
        raise UserError(f"unknown template {template!r}: 'raw' or 'chat'")
    roles, marks = [], []
    for segment, start, piece in zip(example.segments, starts, texts, strict=True):
        roles.append(Span(start, start + len(piece), segment.role))
        for name, spans in segment.marks.items():
            marks.extend(Span(start + a, start + b, name) for a, b in spans)
    return text, roles, marks


def _raw_starts(texts: Sequence[str]) -> list[int]:
    starts, at = [], 0
    for text in texts:
        starts.append(at)
        at += len(text)
    return starts


def _chat(subject: Subject, example: Example, texts: Sequence[str]) -> tuple[str, list[int]]:
    """The model's own template around the segments, and where each of them starts."""
    typed = getattr(subject.processor, "chat_template", None) is not None and subject.processor is not subject.tokenizer
    owner = subject.processor if typed else subject.tokenizer
    if not getattr(owner, "chat_template", None):
        raise UserError("template 'chat' asked for, but this tokenizer has no chat template: use 'raw'")
    messages = _messages(example, typed)
    text = owner.apply_chat_template(messages, tokenize=False, add_generation_prompt=messages[-1]["role"] == "user")
    starts, at = [], 0
    for piece in texts:
        found = text.find(piece, at)
        if found < 0:
            raise UserError(f"example {example.id}: the chat template changes {piece[:40]!r}; use 'raw'")
        starts.append(found)
        at = found + len(piece)
    return text, starts


def _messages(example: Example, typed: bool) -> list[dict[str, Any]]:
    """Segments as turns; a processor's template wants a list of typed pieces, a tokenizer's one string."""
    turns = {"system": "system", "answer": "assistant"}
    messages: list[dict[str, Any]] = []
    for segment in example.segments:
        turn = turns.get(segment.role, "user")
        if not messages or messages[-1]["role"] != turn:
            messages.append({"role": turn, "content": [] if typed else ""})
        if not typed:
            messages[-1]["content"] += str(segment.content)
        elif isinstance(segment.content, str):
            messages[-1]["content"].append({"type": "text", "text": segment.content})
        else:
            messages[-1]["content"].append({"type": "image"})
    return messages


def _role(text: str, span: tuple[int, int], roles: Sequence[Span]) -> str:
    """The role of a token's first character that is not a space; text outside all segments is the template's."""
    start, end = span
    while start < end - 1 and text[start].isspace():
        start += 1
    return next((role.name for role in roles if role.start <= start < role.end), "special")


def _touches(span: tuple[int, int], marks: Sequence[Span], name: str) -> bool:
    return any(mark.name == name and span[0] < mark.end and mark.start < span[1] for mark in marks)
