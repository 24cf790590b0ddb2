"""Greater-than"""

from __future__ import annotations

import random
from typing import Any

from ..example import Example, Segment
from ..templates import fill, require_equal_length, require_single_digits, single_tokens

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "After Hanna et al. 2023, arXiv 2305.00586; here the next digit is asked, since tokenizers split years"
DEFAULT_N = 256

TEMPLATES = (
    "The {event} lasted from the year {century}{start} to the year {century}",
    "The {event} began in {century}{start} and ended in {century}",
    "It was {century}{start} when the {event} began, and it ended in {century}",
    "From {century}{start} the {event} went on until {century}",
)
EVENTS = ("war", "siege", "project", "dispute", "journey", "reform", "famine", "campaign", "strike", "expedition")
CENTURIES = ("15", "16", "17", "18")


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """A span of years whose end is left open behind its century; it cannot end before it began (default n = 256).

    Digits are tokens of their own, so the next token is the decade: the answer is one later than the start's, `wrong`
    one earlier. Marks: `start_decade`, `start_year` (both digits), `century`. Group: template and century. Corrupt: the
    span starts in decade 0, so that both are possible (its own answer is left open). UserError where digits are no
    single tokens or are joined.
    """
    require_single_digits(tokenizer, "greater_than")
    events = single_tokens(tokenizer, EVENTS, least=2, what="greater_than, events")
    rng = random.Random(seed)
    made = (_example(i, rng, events) for i in range(DEFAULT_N if n is None else n))
    return [require_equal_length(tokenizer, example) for example in made]


def _example(index: int, rng: random.Random, events: list[str]) -> Example:
    template, century = index % len(TEMPLATES), CENTURIES[index // len(TEMPLATES) % len(CENTURIES)]
    earlier, start, later = sorted(rng.sample(range(1, 10), 3))
    values, year = {"event": rng.choice(events), "century": century}, rng.randrange(10)
    id, group = f"greater_than-{index:04d}", f"{template + 1}, {century}"
    meta = {"template": template + 1}
    twin = _segment(template, values | {"start": f"0{year}"})
    corrupt = Example(f"{id}-corrupt", group, (twin,), meta=meta)
    asked = _segment(template, values | {"start": f"{start}{year}"})
    return Example(id, group, (asked,), str(later), (str(earlier),), corrupt, meta=meta)


def _segment(template: int, values: dict[str, str]) -> Segment:
    text, spans = fill(TEMPLATES[template], values)
    (begin, end), *_ = spans["start"]
    return Segment(
        "text",
        text,
        {"start_decade": [(begin, begin + 1)], "start_year": [(begin, end)], "century": spans["century"][:1]},
    )
