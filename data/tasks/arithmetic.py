"""Addition"""

from __future__ import annotations

import random
from typing import Any

from ..errors import UserError
from ..example import Example, Segment
from ..templates import fill, require_equal_length, require_single_digits

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Crosslens: sums without carry, after the arithmetic prompts of Stolfo et al. 2023, arXiv 2305.15054"
DEFAULT_N = 256


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any, digits: int = 0, shots: int = 2) -> list[Example]:
    """Sums of two numbers of one or two digits behind `shots` solved ones (default n = 256).

    digits: 1, 2, or 0 for both in turn. Sums have as many digits as their terms and no carry, so the next token is the
    sum's first digit. Marks: `first`, `second` (the digits that decide). Group: digits and answer. Corrupt: another
    second term, of which the answer's digit is another one; that one is `wrong`. Meta: relation ("1 digit", "2
    digits"). UserError where digits are no single tokens or are joined.
    """
    if digits not in (0, 1, 2) or shots < 0:
        raise UserError(f"arithmetic: digits {digits} must be 0, 1 or 2 and shots {shots} at least 0")
    require_single_digits(tokenizer, "arithmetic")
    rng = random.Random(seed)
    sizes = (1, 2) if digits == 0 else (digits,)
    made = (_example(i, rng, sizes[i % len(sizes)], shots) for i in range(DEFAULT_N if n is None else n))
    return [require_equal_length(tokenizer, example) for example in made]


def _example(index: int, rng: random.Random, digits: int, shots: int) -> Example:
    shown = "".join("{}+{}={}\n".format(*_sum(rng, digits)) for _ in range(shots))
    first, second, _ = _sum(rng, digits)
    unit = 10 ** (digits - 1)
    room = [d for d in range(1, 10 - first // unit) if d != second // unit] or [0]
    other = rng.choice(room) * unit + second % unit
    answer, wrong = (str((first + term) // unit) for term in (second, other))
    relation = f"{digits} digit" + "s" * (digits > 1)
    id, group, meta = f"arithmetic-{index:04d}", f"{relation}, {answer}", {"relation": relation}
    twin = Example(f"{id}-corrupt", group, _asked(shown, first, other), wrong, (answer,), meta=meta)
    return Example(id, group, _asked(shown, first, second), answer, (wrong,), twin, meta=meta)


def _sum(rng: random.Random, digits: int) -> tuple[int, int, int]:
    """Two terms and their sum, no digit of which carries."""
    first = second = 0
    for place in range(digits):
        least = 1 if place == digits - 1 else 0
        a = rng.randint(least, 9 - least)
        first, second = first + a * 10**place, second + rng.randint(least, 9 - a) * 10**place
    return first, second, first + second


def _asked(shown: str, first: int, second: int) -> tuple[Segment, Segment]:
    width = len(str(first))
    text, spans = fill("{first}+{second}=", {"first": str(first), "second": str(second).zfill(width)})
    marks = {name: [(begin, begin + 1)] for name, ((begin, _),) in spans.items()}
    return Segment("text", shown), Segment("question", text, marks)
