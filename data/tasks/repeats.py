"""A token repeated many times"""

from __future__ import annotations

import random
from itertools import zip_longest
from typing import Any

from ..errors import UserError
from ..example import Example, Segment, is_single_token
from ..templates import token_count
from .induction import words_of

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SOURCE = "Crosslens: runs of one token, after the counting prompts of arXiv 2411.07176"

COUNT = 64  # repeated tokens
INTRO = "How many times is the same written here?"
FRONTS = ("the same from the start", "another one first")


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any, times: int = 801) -> list[Example]:
    """A question, then one token so many times; the same with one other token before the run (default: 64 tokens).

    Digits, letters and words of the vocabulary in turn, as many as are single tokens. Meta: kind, front (which of the
    two forms). Group: the repeated token. No answer: what counts is the state at its end. UserError: fewer than 3
    times, or too few such tokens.
    """
    if times < 3:
        raise UserError(f"repeats: times={times} is no run: at least 3 are needed")
    pieces = _pieces(tokenizer, random.Random(seed))
    if len(pieces) < 8:
        raise UserError(f"repeats: only {len(pieces)} tokens stand alone when they are repeated, need 8")
    several = pieces[:COUNT]
    made = ((pair, other) for pair, other in zip(several, [*several[3:], *several[:3]], strict=True))
    return [one for (kind, piece), (_, other) in made for one in _both(kind, piece, other, times)][:n]


def _pieces(tokenizer: Any, rng: random.Random) -> list[tuple[str, str]]:
    """(kind, text) of what is one token a time, kinds in turn."""
    digits = [digit for digit in "0123456789" if _repeats(tokenizer, digit)]
    letters = [f" {letter}" for letter in "abcdefghijklmnopqrstuvwxyz" if is_single_token(tokenizer, f" {letter}")]
    words = words_of(tokenizer)
    kinds = {"digit": digits, "letter": letters, "word": rng.sample(words, min(COUNT, len(words)))}
    columns = [[(kind, text) for text in rng.sample(texts, len(texts))] for kind, texts in kinds.items()]
    return [one for row in zip_longest(*columns) for one in row if one and _repeats(tokenizer, one[1])]


def _repeats(tokenizer: Any, text: str) -> bool:
    """Whether it is one token a time however often it is written."""
    return token_count(tokenizer, INTRO + text * 9) - token_count(tokenizer, INTRO + text) == 8


def _both(kind: str, piece: str, other: str, times: int) -> list[Example]:
    name = piece.strip()
    return [
        Example(
            f"{kind}-{name}-{number}",
            name,
            (Segment("text", f"{INTRO}{before}{piece * times}"),),
            meta={"kind": kind, "front": front},
        )
        for number, (front, before) in enumerate(zip(FRONTS, ("", other), strict=True))
    ]
