"""Object words in a text: which objects a caption names, and which of those are in the image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from .example import Example


class Mention(NamedTuple):
    """Characters [start, end) of the text name this object."""

    start: int
    end: int
    object: str


def mentions(text: str, words: Mapping[str, str]) -> list[Mention]:
    """All words and phrases of `words` in the text, in order; the longest where several begin at one place.

    Upper and lower case are alike. A plural counts: "dogs", "buses", "berries", and "knives", "men" where the
    vocabulary gives them. A phrase hides the words inside it: "hot dog" is no dog.
    """
    pattern, objects = _pattern(tuple(sorted(words.items())))
    found = pattern.finditer(text.lower()) if pattern is not None else ()
    return [Mention(m.start(), m.end(), objects[re.sub(r"\s+", " ", m.group())]) for m in found]


@lru_cache(maxsize=16)
def _pattern(items: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    objects: dict[str, str] = {}
    for word, name in items:
        for form in _plurals(word):
            objects.setdefault(form, name)
    objects |= dict(items)  # a word of the vocabulary is never another's plural
    if not objects:
        return None, {}
    longest = sorted(objects, key=lambda word: (-len(word), word))
    joined = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in longest)
    return re.compile(rf"(?<!\w)(?:{joined})(?!\w)"), objects


def _plurals(word: str) -> list[str]:
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return [word[:-1] + "ies"]
    return [word + "es"] if word.endswith(("s", "x", "z", "ch", "sh")) else [word + "s"]


def judge(example: Example, text: str) -> dict[str, list[tuple[int, int]]]:
    """The places of "correct" and "hallucinated" object words of a caption; nothing where the example cannot tell."""
    if example.objects is None:
        return {}
    marks: dict[str, list[tuple[int, int]]] = {"correct": [], "hallucinated": []}
    for mention in mentions(text, example.objects.words):
        marks["correct" if mention.object in example.objects.there else "hallucinated"].append(mention[:2])
    return marks
