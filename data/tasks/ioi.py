"""Indirect object identification"""

from __future__ import annotations

import random
from typing import Any

from ..example import Example, Segment
from ..templates import fill, require_equal_length, single_tokens

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Wang et al. 2022, arXiv 2211.00593; the templates and the corruption of Merullo et al., arXiv 2310.08744"
DEFAULT_N = 280

TEMPLATES = (
    "Then, {S1} and {IO} went to the {place}. {S2} gave a {object} to",
    "Then, {S1} and {IO} had a lot of fun at the {place}. {S2} gave a {object} to",
    "Then, {S1} and {IO} were working at the {place}. {S2} decided to give a {object} to",
    "Then, {S1} and {IO} were thinking about going to the {place}. {S2} wanted to give a {object} to",
    "Then, {S1} and {IO} had a long argument, and afterwards {S2} said to",
    "After {S1} and {IO} went to the {place}, {S2} gave a {object} to",
    "When {S1} and {IO} got a {object} at the {place}, {S2} decided to give it to",
)
PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
OBJECTS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack")
_NAMES = """Aaron Adam Alan Albert Alex Alice Amanda Amy Andrew Angela Anna Anne Anthony Arthur Barbara
Ben Betty Bill Bob Brian Carl Carol Caroline Catherine Charles Chris Christine Daniel David Diana Donald
Dorothy Edward Elizabeth Ellen Emily Emma Eric Eva Frank Fred George Hannah Harry Helen Henry Howard Hugh
Ian Jack Jacob James Jane Jason Jennifer Jeremy Jessica Jim Joan Joe John Jonathan Joseph Julia Julie
Karen Kate Keith Kelly Kevin Laura Lawrence Leo Linda Lisa Louis Lucy Luke Margaret Maria Marie Martha
Martin Mary Matthew Max Michael Michelle Mike Nancy Neil Nicholas Oliver Oscar Patricia Patrick Paul
Peter Philip Rachel Ralph Raymond Rebecca Richard Robert Roger Ronald Roy Ruth Ryan Sam Samuel Sara Sarah
Scott Sean Simon Sophie Stephen Steve Steven Stuart Susan Thomas Tim Tom Tony Victor Victoria Vincent
Walter William"""
NAMES = tuple(_NAMES.split())


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """Prompts whose answer is the name said once; the 7 BABA and 7 ABBA templates in turn (default n = 280).

    Marks: `subject` and `second_subject` (the name said twice), `indirect_object`. Group: order and template
    ("BABA-3"). Corrupt: the second subject becomes the indirect object, so that the two names change roles.
    A smaller n gives the first examples of a larger one. UserError where too few words are single tokens.
    """
    words = {
        "name": single_tokens(tokenizer, NAMES, least=4, what="ioi, names"),
        "place": single_tokens(tokenizer, PLACES, least=1, what="ioi, places"),
        "object": single_tokens(tokenizer, OBJECTS, least=1, what="ioi, objects"),
    }
    rng = random.Random(seed)
    made = (_example(i, rng, words) for i in range(DEFAULT_N if n is None else n))
    return [require_equal_length(tokenizer, example) for example in made]


def _example(index: int, rng: random.Random, words: dict[str, list[str]]) -> Example:
    number, order = index % len(TEMPLATES), ("BABA", "ABBA")[index // len(TEMPLATES) % 2]
    template = TEMPLATES[number]
    if order == "ABBA":
        template = template.replace("{S1} and {IO}", "{IO} and {S1}")
    subject, indirect_object = rng.sample(words["name"], 2)
    values = {"place": rng.choice(words["place"]), "object": rng.choice(words["object"])}
    names = {"S1": subject, "S2": subject, "IO": indirect_object}
    id, group = f"ioi-{index:04d}-{order}-{number + 1}", f"{order}-{number + 1}"
    twin = _prompt(f"{id}-corrupt", group, template, values | names | {"S2": indirect_object})
    return _prompt(id, group, template, values | names, corrupt=twin)


def _prompt(id: str, group: str, template: str, values: dict[str, str], corrupt: Example | None = None) -> Example:
    text, spans = fill(template, values)
    first, other = ("S1", "IO") if values["S2"] == values["S1"] else ("IO", "S1")
    marks = {"subject": spans[first], "second_subject": spans["S2"], "indirect_object": spans[other]}
    answer, wrong = " " + values[other], (" " + values[first],)
    return Example(id, group, (Segment("text", text, marks),), answer, wrong, corrupt)
