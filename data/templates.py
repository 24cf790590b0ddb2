"""Prompts from templates: fill the fields, remember where each went, and hold twins to equal length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any

from .errors import UserError
from .example import Example, is_single_token

Spans = dict[str, list[tuple[int, int]]]


def fill(template: str, values: Mapping[str, str]) -> tuple[str, Spans]:
    """The filled template, and for each field the character spans of its occurrences, in order."""
    text, spans = "", {}
    for literal, field, _, _ in Formatter().parse(template):
        text += literal
        if field is not None:
            spans.setdefault(field, []).append((len(text), len(text) + len(values[field])))
            text += values[field]
    return text, spans


def single_tokens(tokenizer: Any, words: Iterable[str], *, least: int, what: str) -> list[str]:
    """The words that are one token after a space. UserError where fewer than `least` remain."""
    kept = [word for word in words if is_single_token(tokenizer, " " + word)]
    if len(kept) < least:
        raise UserError(f"{what}: only {len(kept)} of the words are one token of this tokenizer, need {least}")
    return kept


def token_count(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


def require_single_digits(tokenizer: Any, what: str) -> None:
    """UserError where two digits in a row are not two tokens."""
    if any(token_count(tokenizer, f"{pair:02d}") != 2 for pair in range(100)):
        raise UserError(f"{what}: this tokenizer joins digits, so a single one cannot be asked for")


def require_equal_length(tokenizer: Any, example: Example) -> Example:
    """The example itself, once its corrupt twin is known to have as many tokens."""
    assert example.corrupt is not None
    counts = [token_count(tokenizer, e.text) for e in (example, example.corrupt)]
    if counts[0] != counts[1]:
        raise UserError(f"{example.id}: {counts[0]} tokens, its corrupt twin {counts[1]}; cannot be patched")
    return example


def led(word: str, template: str, prompt: str, prefix: str | None = None) -> str:
    """An answer as it stands behind its prompt; one that begins with white space, or is none, stays as it is.

    prefix: what stands before it. None: a space behind a letter or a mark, nothing behind white space and in a chat,
    whose template ends the line.
    """
    if not word or word[:1].isspace():
        return word
    if prefix is not None or template == "chat":
        return (prefix or "") + word
    literal, field = [("", "x"), *(piece[:2] for piece in Formatter().parse(template))][-1]
    end = literal if field is None and template != "raw" else prompt
    return word if end[-1:].isspace() else " " + word
