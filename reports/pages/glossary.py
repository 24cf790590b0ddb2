"""Words that a first reader does not know: one file explains them, every page links their first occurrence there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

FILE = Path(__file__).parents[1] / "glossary.toml"
PAGE = "glossary.html"


@cache
def _content() -> dict[str, dict[str, str]]:
    return tomllib.loads(FILE.read_text("utf-8"))


def terms() -> dict[str, str]:
    """Term -> its sentence, in alphabetical order."""
    return dict(sorted(_content()["terms"].items(), key=lambda item: item[0].casefold()))


def anchor(term: str) -> str:
    """The term's address on the page of the glossary."""
    return re.sub(r"\W+", "-", term.casefold())


@cache
def _pattern() -> re.Pattern[str]:
    """Every term as a whole word, the longest first; small letters match at the start of a sentence too."""
    words = sorted(terms(), key=len, reverse=True)
    either = (re.escape(w) if w != w.casefold() or len(w) == 1 else _either_case(w) for w in words)
    return re.compile(rf"(?<![\w-])({'|'.join(either)})(s?)(?![\w-])")


def _either_case(word: str) -> str:
    return f"[{word[0].upper()}{word[0]}]{re.escape(word[1:])}"


def glossed(text: Any) -> Markup:
    """A text as markup, escaped, the first occurrence of each known term a link to its sentence."""
    text, parts, last, seen = str(text), [], 0, set[str]()
    for found in _pattern().finditer(text):
        term = next(t for t in (found[1], found[1].casefold()) if t in terms())
        if term not in seen:
            parts += [escape(text[last : found.start()]), _link(term, found[0])]
            last = found.end()
        seen.add(term)
    return Markup("").join([*parts, escape(text[last:])])


def _link(term: str, shown: str) -> Markup:
    link = Markup('<a class="term" href="{}#{}" title="{}">{}</a>')
    return link.format(PAGE, anchor(term), terms()[term], shown)


def heading(column: Any) -> str:
    """The name of a table's column in words: "n_groups" -> "groups", an unknown "top_share" -> "top share"."""
    return _content()["headings"].get(str(column), str(column).replace("_", " "))


def explained(words: Iterable[str]) -> list[tuple[str, str]]:
    """(term, sentence) of these terms. KeyError: one that the glossary lacks."""
    return [(word, terms()[word]) for word in words]


def listed() -> list[tuple[str, str, str]]:
    """(anchor, term, sentence) of every term, for the page of the glossary."""
    return [(anchor(term), term, said) for term, said in terms().items()]
