"""Running text of documents: files of them, and windows of as many tokens that do not overlap."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UserError
from .templates import token_count


class Window(NamedTuple):
    """document: its name. number: the how manieth of its windows."""

    document: str
    number: int
    text: str


def documents_in(file: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of a file that is a sequence of "# name" lines, each followed by its document."""
    _, *parts = re.split(r"^# (\S+)\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        yield name, text.strip()


def dealt(documents: Mapping[str, str], seed: int, tokenizer: Any, tokens: int, task: str) -> list[Window]:
    """Windows of at most `tokens` tokens (BOS not counted), one of each document in turn.

    They begin and end at a word and fall short of `tokens` by a few at most; what is left at the end of a document is
    dropped. The seed orders documents and windows. UserError, which names the task: fewer than 8 tokens, a slow
    tokenizer, a word that is too long, no document that is long enough.
    """
    if tokens < 8 or not tokenizer.is_fast:
        raise UserError(f"{task}: needs at least 8 tokens a window, and a fast tokenizer")
    rng = random.Random(seed)
    found = [list(_windows(name, text, tokenizer, tokens, task)) for name, text in documents.items()]
    columns = [rng.sample(windows, len(windows)) for windows in rng.sample(found, len(found))]
    made = [window for row in zip_longest(*columns) for window in row if window]
    if not made:
        raise UserError(f"{task}: no document is {tokens} tokens long; take fewer")
    return made


def _windows(name: str, text: str, tokenizer: Any, tokens: int, task: str) -> Iterator[Window]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in encoded["offset_mapping"]]
    start = number = 0
    while (last := bisect_right(ends, start) + tokens - 1) < len(ends):
        stop = _word_end(text, ends[last])
        # a window begins without the space that its first word had in the text, which may cost a token
        while token_count(tokenizer, text[start:stop].strip()) > tokens:
            stop = _word_end(text, stop - 1)
        if stop <= start:
            raise UserError(f"{task}: a word of {name} is longer than {tokens} tokens; take more")
        yield Window(name, number, text[start:stop].strip())
        start, number = stop, number + 1


def _word_end(text: str, stop: int) -> int:
    """The last position up to `stop` where a word ends."""
    while 0 < stop < len(text) and not text[stop].isspace():
        stop -= 1
    return stop
