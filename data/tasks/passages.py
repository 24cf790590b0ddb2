"""Passages of Jane Austen's novels"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..example import Example, Segment
from ..templates import token_count

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Every 4th chapter of Jane Austen's novels, Project Gutenberg's texts as packaged in janeaustenr"

FOLDER = Path(__file__).with_name("passages")
SPLITS = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}


def documents(split: str | None = None) -> dict[str, str]:
    """Document name ("emma-05": novel and chapter) -> text, of one split or of all.

    Documents are dealt out in turn, three of five to train, one to validation, one to test.
    """
    if split is not None and split not in SPLITS:
        raise UserError(f"passages: no split {split!r}; there are {', '.join(SPLITS)}")
    chapters = [chapter for file in sorted(FOLDER.glob("*.txt")) for chapter in _chapters(file)]
    wanted = SPLITS[split] if split else range(5)
    return dict(chapter for i, chapter in enumerate(chapters) if i % 5 in wanted)


def examples(
    n: int | None = None, seed: int = 0, *, tokenizer: Any, tokens: int = 256, split: str = "test"
) -> list[Example]:
    """Windows of at most `tokens` tokens (BOS not counted), one of each document in turn (default: all).

    Windows do not overlap, begin and end at a word, and fall short of `tokens` by a few at most; what is left
    at the end of a document is dropped. The seed orders documents and windows. Group: the document.
    """
    rng = random.Random(seed)
    found = [list(_windows(name, text, tokenizer, tokens)) for name, text in documents(split).items()]
    columns = [rng.sample(windows, len(windows)) for windows in rng.sample(found, len(found))]
    made = [window for row in zip_longest(*columns) for window in row if window]
    if not made:
        raise UserError(f"passages: no document is {tokens} tokens long; take fewer")
    return made[:n]


def _chapters(file: Path) -> Iterator[tuple[str, str]]:
    """A file is a sequence of "# name" lines, each followed by its chapter, one paragraph a line."""
    _, *parts = re.split(r"^# (\S+)\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        yield name, text.strip()


def _windows(name: str, text: str, tokenizer: Any, tokens: int) -> Iterator[Example]:
    if tokens < 8 or not tokenizer.is_fast:
        raise UserError("passages: needs at least 8 tokens a window, and a fast tokenizer")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in encoded["offset_mapping"]]
    start = number = 0
    while (last := bisect_right(ends, start) + tokens - 1) < len(ends):
        stop = _word_end(text, ends[last])
        # a window begins without the space that its first word had in the text, which may cost a token
        while token_count(tokenizer, text[start:stop].strip()) > tokens:
            stop = _word_end(text, stop - 1)
        if stop <= start:
            raise UserError(f"passages: a word of {name} is longer than {tokens} tokens; take more")
        yield Example(f"{name}-{number:04d}", name, (Segment("text", text[start:stop].strip()),))
        start, number = stop, number + 1


def _word_end(text: str, stop: int) -> int:
    """The last position up to `stop` where a word ends."""
    while 0 < stop < len(text) and not text[stop].isspace():
        stop -= 1
    return stop
