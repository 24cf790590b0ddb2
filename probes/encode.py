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
    text, roles, marks = render(subject.tokenizer, example, template)
    tokenised = subject.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(tokenised["input_ids"]), list(tokenised["offset_mapping"])
    special = set(subject.tokenizer.all_special_ids)
    first_id = subject.tokenizer.bos_token_id
    if bos and first_id is not None and ids[:1] != [first_id]:
        ids, offsets = [first_id, *ids], [(0, 0), *offsets]
    own = ["special" if i in special else _role(text, span, roles) for i, span in zip(ids, offsets, strict=True)]
    names = {mark.name: None for mark in marks}
    return Encoded(ids, own, {name: [_touches(span, marks, name) for span in offsets] for name in names})


def render(tokenizer: Any, example: Example, template: str) -> tuple[str, list[Span], list[Span]]:
    """The prompt as one string, with the character spans of its roles and of its marks."""
    if template == "raw":
        text, starts = example.text, _raw_starts(example)
    elif template == "chat":
        text, starts = _chat(tokenizer, example)
    else:
        raise UserError(f"unknown template {template!r}: 'raw' or 'chat'")
    roles, marks = [], []
    for segment, start in zip(example.segments, starts, strict=True):
        roles.append(Span(start, start + len(str(segment.content)), segment.role))
        for name, spans in segment.marks.items():
            marks.extend(Span(start + a, start + b, name) for a, b in spans)
    return text, roles, marks


def _raw_starts(example: Example) -> list[int]:
    starts, at = [], 0
    for segment in example.segments:
        starts.append(at)
        at += len(str(segment.content))
    return starts


def _chat(tokenizer: Any, example: Example) -> tuple[str, list[int]]:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("template 'chat' asked for, but this tokenizer has no chat template: use 'raw'")
    turns = {"system": "system", "answer": "assistant"}
    messages: list[dict[str, str]] = []
    for segment in example.segments:
        turn = turns.get(segment.role, "user")
        if not messages or messages[-1]["role"] != turn:
            messages.append({"role": turn, "content": ""})
        messages[-1]["content"] += str(segment.content)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=messages[-1]["role"] == "user")
    starts, at = [], 0
    for segment in example.segments:
        found = text.find(str(segment.content), at)
        if found < 0:
            raise UserError(f"example {example.id}: the chat template changes {str(segment.content)[:40]!r}; use 'raw'")
        starts.append(found)
        at = found + len(str(segment.content))
    return text, starts


def _role(text: str, span: tuple[int, int], roles: Sequence[Span]) -> str:
    """The role of a token's first character that is not a space; text outside all segments is the template's."""
    start, end = span
    while start < end - 1 and text[start].isspace():
        start += 1
    return next((role.name for role in roles if role.start <= start < role.end), "special")


def _touches(span: tuple[int, int], marks: Sequence[Span], name: str) -> bool:
    return any(mark.name == name and span[0] < mark.end and mark.start < span[1] for mark in marks)
