"""Words and tokens: the ids of a word inside a text, and for every id a label of its own."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

BEFORE = "\n"  # what a word stands behind where no prompt is at hand: no tokenizer joins the two
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def ids_behind(tokenizer: Any, text: str, word: str) -> list[int] | None:
    """The ids of `word` where it stands behind `text`; None where it changes the tokens of the text before it.

    Both are encoded together: some tokenizers put a space of their own before whatever comes first.
    """
    before = tokenizer.encode(text, add_special_tokens=False)
    whole = tokenizer.encode(text + word, add_special_tokens=False)
    return whole[len(before) :] if whole[: len(before)] == before else None


def ids_in_text(tokenizer: Any, word: str) -> list[int]:
    """The ids of `word` (leading space included) inside a text."""
    ids = ids_behind(tokenizer, BEFORE, word)
    return tokenizer.encode(word, add_special_tokens=False) if ids is None else ids


def texts(tokenizer: Any) -> list[str]:
    """What every id of the tokenizer says inside a text, leading space included; pieces of characters say U+FFFD."""
    return inside(tokenizer, [[i] for i in range(len(tokenizer))])


def inside(tokenizer: Any, several: Sequence[Sequence[int]]) -> list[str]:
    """What each row of ids says inside a text, leading space included."""
    before = tokenizer.encode(BEFORE, add_special_tokens=False)[-1:]
    start = _decode(tokenizer, [before])[0] if before else ""
    whole = _decode(tokenizer, [[*before, *ids] for ids in several])
    alone = _decode(tokenizer, [[*ids] for ids in several])
    return [w[len(start) :] if w.startswith(start) else a for w, a in zip(whole, alone, strict=True)]


def labels(tokenizer: Any, ids: Iterable[Any]) -> list[str]:
    """A label for every id: its text, bytes as <0xE2> where it is a piece of a character; two ids never share one.

    ids: numbers, or a one-dimensional array of them.
    """
    known = _labels(tokenizer)
    return [known[i] if i < len(known) else f"[id {i}]" for i in map(int, ids)]


@lru_cache(maxsize=4)
def _labels(tokenizer: Any) -> list[str]:
    named = [_with_bytes(tokenizer, i, text) for i, text in enumerate(texts(tokenizer))]
    count = Counter(named)
    return [name if name and count[name] == 1 else f"{name}[id {i}]" for i, name in enumerate(named)]


def _with_bytes(tokenizer: Any, token: int, text: str) -> str:
    """The text, or the bytes where it is a piece of a character."""
    if "\ufffd" not in text:
        return text
    raw, spelled = tokenizer.convert_ids_to_tokens(token), _bytes_of_letters()
    if raw is None or BYTE.fullmatch(raw) or not set(raw) <= set(spelled):
        return raw or ""
    return bytes(spelled[letter] for letter in raw).decode("utf-8", "crosslens.bytes")


@cache
def _bytes_of_letters() -> dict[str, int]:
    """How byte-level vocabularies spell bytes as letters."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("crosslens.bytes", _spell)


def _decode(tokenizer: Any, ids: list[list[int]]) -> list[str]:
    return tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
