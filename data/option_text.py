"""Options of a task as they are typed: name=value, commas between them."""

from __future__ import annotations

import shlex
from typing import Any

from .errors import UserError


def items(text: str, spec: str) -> list[str]:
    """The parts between commas, but for commas in double quotes; the quotes are taken off."""
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace, words.quotes, words.escape, words.commenters = ",", '"', "", ""
    words.whitespace_split = True
    try:
        return list(words)
    except ValueError as error:
        raise UserError(f"task {spec}: a quote is not closed") from error


def like(default: Any, value: str, where: str) -> Any:
    """The text of an option as the type of its default."""
    if isinstance(default, bool):
        return value.lower() in ("1", "true", "yes")
    try:
        return type(default)(value) if default is not None else value
    except ValueError as error:
        raise UserError(f"{where} wants {type(default).__name__}, not {value!r}") from error
