"""Single words translated between two languages"""

from __future__ import annotations

import random
from typing import Any

from ..errors import UserError
from ..example import Example, Segment
from ..word_groups import CONCEPTS, LANGUAGES

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Crosslens, data/word_groups.py: everyday words, written for this project"
PAIRS = "French-German+German-Spanish+Spanish-French"
NAMES = {"English": "English", "French": "Français", "Spanish": "Español", "German": "Deutsch"}


def examples(
    n: int | None = None, seed: int = 0, *, tokenizer: Any = None, pairs: str = PAIRS, shots: int = 3
) -> list[Example]:
    """Every word in every pair of languages, pairs in turn (default: all), behind `shots` other words translated.

    "Français: feu\\nDeutsch: Feuer\\n\\n … Français: maison\\nDeutsch:", answer " Haus", wrong: the English word.
    Answers may be several tokens. Group: the concept. Marks: `subject`, the word asked about. Meta: relation ("French
    to German"), target. No corrupt twin. UserError: an unknown pair, or more shots than there are other words.
    """
    rows = [list[str](row.split()) for row in CONCEPTS.splitlines()]
    if not 0 <= shots < len(rows):
        raise UserError(f"translation: {shots} shots, but there are {len(rows) - 1} other words")
    rng = random.Random(seed)
    ordered = rng.sample(rows, len(rows))
    made = []
    for row in ordered:
        others = rng.sample([r for r in rows if r is not row], shots)
        made += [_example(row, others, *_pair(pair)) for pair in pairs.split("+")]
    return made[:n]


def _pair(pair: str) -> tuple[int, int]:
    names = pair.split("-")
    if len(names) != 2 or not set(names) <= set(LANGUAGES) or names[0] == names[1]:
        raise UserError(f"translation: no pair {pair!r}; two of {', '.join(LANGUAGES)} joined by '-'")
    return LANGUAGES.index(names[0]), LANGUAGES.index(names[1])


def _example(row: list[str], others: list[list[str]], source: int, target: int) -> Example:
    names = [NAMES[LANGUAGES[i]] for i in (source, target)]
    shots = "".join(f"{names[0]}: {r[source]}\n{names[1]}: {r[target]}\n\n" for r in others)
    text = f"{shots}{names[0]}: {row[source]}\n{names[1]}:"
    start = len(shots) + len(names[0]) + 2
    segment = Segment("text", text, {"subject": [(start, start + len(row[source]))]})
    meta = {"relation": f"{LANGUAGES[source]} to {LANGUAGES[target]}", "target": LANGUAGES[target]}
    wrong = (" " + row[0],) if target else ()
    id = f"translation-{row[0]}-{LANGUAGES[source]}-{LANGUAGES[target]}"
    return Example(id, row[0], (segment,), " " + row[target], wrong, meta=meta)
