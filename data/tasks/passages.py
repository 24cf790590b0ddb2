"""Passages of Jane Austen's novels"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..example import Example, Segment
from ..running_text import dealt, documents_in

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
    chapters = [chapter for file in sorted(FOLDER.glob("*.txt")) for chapter in documents_in(file)]
    wanted = SPLITS[split] if split else range(5)
    return dict(chapter for i, chapter in enumerate(chapters) if i % 5 in wanted)


def examples(
    n: int | None = None, seed: int = 0, *, tokenizer: Any, tokens: int = 256, split: str = "test"
) -> list[Example]:
    """Windows of at most `tokens` tokens (BOS not counted), one of each document in turn (default: all).

    Windows do not overlap, begin and end at a word, and fall short of `tokens` by a few at most; what is left
    at the end of a document is dropped. The seed orders documents and windows. Group: the document.
    """
    windows = dealt(documents(split), seed, tokenizer, tokens, "passages")
    return [
        Example(f"{one.document}-{one.number:04d}", one.document, (Segment("text", one.text),)) for one in windows[:n]
    ]
