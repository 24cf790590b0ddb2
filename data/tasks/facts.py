"""Single-token facts"""

from __future__ import annotations

import csv
import random
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..example import Example, Segment, is_single_token
from ..templates import fill, require_equal_length, token_count

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Crosslens, data/facts.csv: public knowledge, written for this project"

TEMPLATES = {
    "capital": ("The capital of {subject} is", "In {subject}, the capital is"),
    "state capital": (
        "The capital of the state of {subject} is the city of",
        "The state of {subject} has its capital in the city of",
    ),
    "country": (
        "The city of {subject} is in the country of",
        "The city of {subject} is located in the country of",
    ),
    "continent": (
        "The country of {subject} is on the continent of",
        "The nation of {subject} lies on the continent of",
    ),
    "language": ("The main language of {subject} is", "In {subject}, the main language is"),
    "nationality": (
        "Someone from America is American, someone from Chile is Chilean, and someone from {subject} is",
        "The people of Chile are Chilean and the people of {subject} are",
    ),
    "opposite": (
        "The opposite of tall is short. The opposite of {subject} is",
        "Opposites: tall, short; sweet, sour; {subject},",
    ),
    "past tense": (
        "play, played; walk, walked; {subject},",
        "Present and past: play, played; love, loved; {subject},",
    ),
    "plural": (
        "There was one apple, now there are two apples. There was one {subject}, now there are two",
        "apple, apples; car, cars; {subject},",
    ),
    "comparative": (
        "This one is {subject}, but that one is even",
        "It was {subject} before, but now it is even",
    ),
    "chemical symbol": (
        "In the periodic table, the symbol for radium is Ra and the symbol for {subject} is",
        "The chemical symbol for radium is Ra and the chemical symbol for {subject} is",
    ),
    "maker": (
        "The company that made the Game Boy is Nintendo. The company that made the {subject} is",
        "The company behind the Game Boy is Nintendo, and the company behind the {subject} is",
    ),
}


class Fact(NamedTuple):
    relation: str
    subject: str
    answer: str


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any, relation: str = "") -> list[Example]:
    """Every fact in its first template, relations in turn, then every fact in its second (default: all).

    relation: one alone, such as "capital", world capitals in the manner of arXiv 2310.08744 (whose own prompts are not
    published); "" for all.
    Marks: `subject`. Group: the subject, which returns in both templates and in several relations.
    Corrupt: the same template about another subject of the relation, of as many tokens, with another answer;
    that answer is `wrong`. Facts whose answer is not one token, or that find no such partner, are left out.
    Meta: relation and template. A smaller n gives the first examples of a larger one.
    """
    if relation and relation not in TEMPLATES:
        raise UserError(f"facts: no relation {relation!r}; there are {', '.join(TEMPLATES)}")
    pairs = _pairs([fact for fact in _read() if relation in ("", fact.relation)], tokenizer)
    if not pairs:
        raise UserError("facts: no answer is one token of this tokenizer, so nothing is left to ask")
    ordered = _in_turn(pairs, random.Random(seed))
    made = [_example(fact, twin, number) for number in range(2) for fact, twin in ordered]
    return [require_equal_length(tokenizer, example) for example in made[:n]]


def _read() -> list[Fact]:
    with (Path(__file__).parents[1] / "facts.csv").open(encoding="utf-8", newline="") as file:
        return [Fact(**row) for row in csv.DictReader(file)]


def _pairs(facts: list[Fact], tokenizer: Any) -> list[tuple[Fact, Fact]]:
    """Each fact with its partner: the next one of its relation and token count whose answer differs."""
    alike: dict[tuple[str, int], list[Fact]] = {}
    for fact in facts:
        if is_single_token(tokenizer, " " + fact.answer):
            alike.setdefault((fact.relation, token_count(tokenizer, " " + fact.subject)), []).append(fact)
    pairs = []
    for several in alike.values():
        for i, fact in enumerate(several):
            later = (f for f in several[i + 1 :] + several[:i] if f.answer != fact.answer)
            if partner := next(later, None):
                pairs.append((fact, partner))
    return pairs


def _in_turn(pairs: list[tuple[Fact, Fact]], rng: random.Random) -> list[tuple[Fact, Fact]]:
    """Shuffled within relations, then one of each relation after the other, so a small n sees all."""
    shuffled = rng.sample(pairs, len(pairs))
    columns = [[pair for pair in shuffled if pair[0].relation == relation] for relation in TEMPLATES]
    return [pair for row in zip_longest(*columns) for pair in row if pair]


def _example(fact: Fact, twin: Fact, number: int) -> Example:
    id = f"facts-{fact.relation.replace(' ', '_')}-{fact.subject}-{number + 1}"
    corrupt = _prompt(f"{id}-corrupt", fact.subject, twin, fact, number)
    return _prompt(id, fact.subject, fact, twin, number, corrupt)


def _prompt(id: str, group: str, fact: Fact, other: Fact, number: int, corrupt: Example | None = None) -> Example:
    text, spans = fill(TEMPLATES[fact.relation][number], {"subject": fact.subject})
    meta = {"relation": fact.relation, "template": number + 1}
    segments = (Segment("text", text, spans),)
    return Example(id, group, segments, " " + fact.answer, (" " + other.answer,), corrupt, meta=meta)
