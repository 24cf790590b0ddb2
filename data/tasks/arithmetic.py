"""Arithmetic"""

from __future__ import annotations

import random
from typing import Any

from ..errors import UserError
from ..example import Example, Segment
from ..templates import fill, require_equal_length, require_single_digits

VERSION = 2
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = (
    "Crosslens: sums without carry, differences without borrowing, after the arithmetic prompts of Stolfo et al. 2023, "
    "arXiv 2305.15054"
)
DEFAULT_N = 256
SIGNS = {"addition": "+", "subtraction": "-"}


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any,
    digits: int = 0,
    shots: int = 2,
    operation: str = "addition",
) -> list[Example]:
    """Sums of two numbers of one or two digits behind `shots` solved ones (default n = 256), or their differences.

    operation: "addition" or "subtraction". digits: 1, 2, or 0 for both in turn. Results have as many digits as their
    terms, no carry and no borrowing, so the next token is the result's first digit. Marks: `first`, `second` (the
    digits that decide), `operator`. Group: digits and answer. Corrupt: another second term, of which the answer's digit
    is another one; that one is `wrong`. Meta: relation ("1 digit", "2 digits"). UserError where digits are no single
    tokens or are joined.
    """
    if digits not in (0, 1, 2) or shots < 0:
        raise UserError(f"arithmetic: digits {digits} must be 0, 1 or 2 and shots {shots} at least 0")
    if operation not in SIGNS:
        raise UserError(f"arithmetic: operation {operation!r} must be {' or '.join(SIGNS)}")
    require_single_digits(tokenizer, "arithmetic")
    rng = random.Random(seed)
    sizes = (1, 2) if digits == 0 else (digits,)
    count = DEFAULT_N if n is None else n
    made = (_example(i, rng, sizes[i % len(sizes)], shots, SIGNS[operation]) for i in range(count))
    return [require_equal_length(tokenizer, example) for example in made]


def _example(index: int, rng: random.Random, digits: int, shots: int, sign: str) -> Example:
    shown = "".join("{}{}{}={}\n".format(*_terms(rng, digits, sign)) for _ in range(shots))
    first, _, second, _ = _terms(rng, digits, sign)
    unit = 10 ** (digits - 1)
    lead = first // unit
    others = range(1, 10 - lead if sign == "+" else lead)  # leading digits that leave the answer as long
    other = rng.choice([d for d in others if d != second // unit] or [0]) * unit + second % unit
    answer, wrong = (str((first + term if sign == "+" else first - term) // unit) for term in (second, other))
    relation = f"{digits} digit" + "s" * (digits > 1)
    id, group, meta = f"arithmetic-{index:04d}", f"{relation}, {answer}", {"relation": relation}
    twin = Example(f"{id}-corrupt", group, _asked(shown, first, sign, other), wrong, (answer,), meta=meta)
    return Example(id, group, _asked(shown, first, sign, second), answer, (wrong,), twin, meta=meta)


def _terms(rng: random.Random, digits: int, sign: str) -> tuple[int, str, int, int]:
    """A number, the sign, another number and the result, no digit of which carries or borrows."""
    first = second = 0
    for place in range(digits):
        least = 1 if place == digits - 1 else 0
        a = rng.randint(least, 9 - least) if sign == "+" else rng.randint(2 * least, 9)
        b = rng.randint(least, 9 - a if sign == "+" else a - least)
        first, second = first + a * 10**place, second + b * 10**place
    return first, sign, second, first + second if sign == "+" else first - second


def _asked(shown: str, first: int, sign: str, second: int) -> tuple[Segment, Segment]:
    width = len(str(first))
    terms = {"first": str(first), "operator": sign, "second": str(second).zfill(width)}
    text, spans = fill("{first}{operator}{second}=", terms)
    marks = {name: [(begin, begin + 1)] for name, ((begin, _),) in spans.items()}
    return Segment("text", shown), Segment("question", text, marks)
