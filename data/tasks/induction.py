"""Repeated random words"""

from __future__ import annotations

import random
import re
from typing import Any

from ..errors import UserError
from ..example import Example, Segment
from ..templates import require_equal_length
from ..tokens import texts

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Crosslens: random repeats, after Elhage et al. 2021 and Olsson et al. 2022, arXiv 2209.11895"
DEFAULT_N = 256
WORD = re.compile(r" [a-z]{3,}")


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any, length: int = 10) -> list[Example]:
    """`length` random words, then the first of them again up to some point; the answer goes on (default n = 256).

    Words are tokens of the vocabulary: a space and at least three letters. Marks: `answer` (where the answer stood),
    `before` (the word before it), `current` (that word again, the last one). Group: the example itself, nothing
    repeats. Corrupt: another word stood where the answer stood; that one is `wrong`. UserError for a length below 3 or
    too few such words.
    """
    words = words_of(tokenizer)
    if length < 3 or len(words) < 2 * length:
        raise UserError(f"induction: length {length} must be at least 3, and twice as many words exist ({len(words)})")
    rng = random.Random(seed)
    made = (_example(i, rng, words, length) for i in range(DEFAULT_N if n is None else n))
    return [require_equal_length(tokenizer, example) for example in made]


def words_of(tokenizer: Any) -> list[str]:
    """All tokens that are a space and a word, in the order of the vocabulary."""
    return [text for text in dict.fromkeys(texts(tokenizer)) if WORD.fullmatch(text)]


def _example(index: int, rng: random.Random, words: list[str], length: int) -> Example:
    *shown, other = rng.sample(words, length + 1)
    end = rng.randint(1, length - 1)  # the last word shown again; the one behind it is asked for
    id = f"induction-{index:04d}"
    changed = [*shown[:end], other, *shown[end + 1 :]]
    twin = Example(f"{id}-corrupt", id, (_segment(changed, end),), other, (shown[end],))
    return Example(id, id, (_segment(shown, end),), shown[end], (other,), twin)


def _segment(shown: list[str], end: int) -> Segment:
    said = [*shown, *shown[:end]]
    text = "".join(said)[1:]
    starts = [len("".join(said[:i])) for i in range(len(said))]  # of the words without their space

    def span(i: int) -> list[tuple[int, int]]:
        return [(starts[i], starts[i] + len(said[i]) - 1)]

    return Segment("text", text, {"answer": span(end), "before": span(end - 1), "current": span(len(said) - 1)})
