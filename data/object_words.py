"""Object words in a text: which objects a caption names, and which of those are in the image.

Read as CHAIR reads captions (Rohrbach et al. 2018, arXiv 1809.02156; utils/chair.py of LisaAnne/Hallucination): words
are made singular, phrases are joined from the left before words are looked up, and a word with a hyphen is one word.
Not copied: slips of its singular forms (pattern.en), which lose "bus" (bu), "canoes" (cano), "ties" (ty) and "thieves"
(thieve), and its window of two words, which reads "stove top oven" as two ovens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from .example import Example, Objects

# A word with its hyphens and inner apostrophes ("two-man", "o'clock") but without 's, 'll, …; or a punctuation mark,
# which keeps the words beside it apart.
TOKEN = re.compile(r"\w+(?:(?!['’](?:s|m|d|ll|re|ve)\b)[-/'’]\w+)*|[^\w\s]", re.IGNORECASE)
# By how words end; all else is regular.
IRREGULAR = {
    **{"man": "men", "child": "children", "person": "people", "mouse": "mice", "goose": "geese", "ox": "oxen"},
    **{"calf": "calves", "knife": "knives", "thief": "thieves", "leaf": "leaves", "loaf": "loaves", "wolf": "wolves"},
    **{"shelf": "shelves", "wife": "wives", "foot": "feet", "tooth": "teeth"},
}
NOT_BESIDE = {"seat": "toilet"}  # the seat of a toilet is no chair


class Mention(NamedTuple):
    """Characters [start, end) of the text name this object."""

    start: int
    end: int
    object: str


class Counts(NamedTuple):
    """Of one caption: mentions of objects, those of objects that are not there; objects that are there and named, each
    once; objects that are there.
    """

    named: int
    hallucinated: int
    found: int
    there: int


def mentions(text: str, words: Mapping[str, str]) -> list[Mention]:
    """All words and phrases of `words` in the text, in order; the longest where several begin at one place.

    Upper and lower case are alike. A plural counts: "dogs", "buses", "berries", "knives", "policemen". A phrase hides
    the words inside it ("hot dog" is no dog), and names nothing where `words` gives it the object "". A word that holds
    a hyphen is another word: "two-man" is no man.
    """
    singular, longest = _forms(tuple(words.items()))
    places = [m.span() for m in TOKEN.finditer(text)]
    tokens = [text[a:b].lower() for a, b in places]
    tokens = [singular.get(token, token) for token in tokens]
    terms, at = [], 0
    while at < len(tokens):
        phrases = ((n, " ".join(tokens[at : at + n])) for n in range(min(longest, len(tokens) - at), 0, -1))
        n, term = next((found for found in phrases if found[1] in words), (1, ""))
        terms += [(places[at][0], places[at + n - 1][1], term)] if term else []
        at += n
    said = {word for _, _, term in terms for word in term.split()}
    named = [(start, end, words[term]) for start, end, term in terms if NOT_BESIDE.get(term) not in said]
    return [Mention(*place) for place in named if place[2]]


@lru_cache(maxsize=16)
def _forms(items: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], int]:
    """Plural -> the word of the vocabulary or of its phrases, which itself is never another's plural; the length of
    the longest phrase in words.
    """
    singles = sorted({word for phrase, _ in items for word in phrase.split(" ")})
    forms = {plural: word for word in reversed(singles) for plural in plurals(word)}
    return forms | {word: word for word in singles}, max((phrase.count(" ") + 1 for phrase, _ in items), default=1)


def plurals(word: str) -> list[str]:
    """The ways to write a noun's plural, some of which may not exist: ["buffalos", "buffaloes"]."""
    other = [word[: -len(one)] + many for one, many in IRREGULAR.items() if word.endswith(one)]
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return [word[:-1] + "ies"]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return [*other, word + "es"]
    return [*other, word + "s", *([word + "es"] if word.endswith("o") else [])]


def judge(example: Example, text: str) -> dict[str, list[tuple[int, int]]]:
    """The places of "correct" and "hallucinated" object words of a caption; nothing where the example cannot tell."""
    if example.objects is None:
        return {}
    marks: dict[str, list[tuple[int, int]]] = {"correct": [], "hallucinated": []}
    for mention in mentions(text, example.objects.words):
        marks["correct" if mention.object in example.objects.there else "hallucinated"].append(mention[:2])
    return marks


def count(text: str, objects: Objects) -> Counts:
    """What CHAIR counts in a caption."""
    named = [mention.object for mention in mentions(text, objects.words)]
    wrong = sum(name not in objects.there for name in named)
    return Counts(len(named), wrong, len(objects.there & set(named)), len(objects.there))
