"""Running text of several languages and domains"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..example import Example, Segment
from ..running_text import dealt, documents_in
from . import passages

VERSION = 2
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = (
    "Documentation of Electron and Genesis, each in four languages, Jane Austen's novels, networkx' code, sympy's "
    "documentation"
)

FOLDER = Path(__file__).with_name("texts")
LANGUAGES = ("English", "French", "German", "Spanish")
DOMAINS = ("prose", "code", "mathematics")
LABELS = "+".join(LANGUAGES)


def documents(label: str) -> dict[str, str]:
    """Document name -> text of one language or domain. Languages have the same documents, paragraph by paragraph:
    pages of documentation and chapters of Genesis.

    Prose is what `passages` keeps. UserError: an unknown label.
    """
    if label not in LANGUAGES + DOMAINS:
        raise UserError(f"texts: no label {label!r}; there are {', '.join(LANGUAGES + DOMAINS)}")
    return passages.documents() if label == "prose" else dict(documents_in(FOLDER / f"{label.lower()}.txt"))


def examples(
    n: int | None = None, seed: int = 0, *, tokenizer: Any, tokens: int = 64, labels: str = LABELS
) -> list[Example]:
    """Windows of `tokens` tokens, labels in turn (default: all).

    labels: languages and domains, joined by "+". Meta: label. Group: the document, which the languages share: what one
    says in one language stands in no other half. UserError: fewer than two labels, an unknown one, as `running_text`.
    """
    wanted = [*dict.fromkeys(one.strip() for one in labels.split("+"))]
    if len(wanted) < 2:
        raise UserError(f"texts: labels={labels} is one label; give two or more of {'+'.join(LANGUAGES + DOMAINS)}")
    columns = [
        [
            Example(
                f"{label}-{w.document}-{w.number:04d}", w.document, (Segment("text", w.text),), meta={"label": label}
            )
            for w in dealt(documents(label), seed, tokenizer, tokens, f"texts, {label}")
        ]
        for label in wanted
    ]
    return [one for row in zip_longest(*columns) for one in row if one][:n]
