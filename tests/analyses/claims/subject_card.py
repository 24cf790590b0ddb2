"""Planted answers to scenes, by which each bar of the subject card is met, and by which it is missed."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
from crosslens.analyses.cards import subject_card
from crosslens.analyses.cards.subject_card import Options
from crosslens.data.example import Example
from crosslens.data.tasks import scenes
from crosslens.probes.runs.results import How, Rows, condition_of, merge

from ...helpers.makers import tables_from

BASIC = "colour+shape+existence+coloured_existence+count"
# Claim -> kinds of questions, difficulty, scenes a kind: where no answer varies, 80 scenes exclude .05.
ASKED = {
    "basic 90": (BASIC, "clear", 80),
    "basic 95": (BASIC, "clear", 80),
    "relations": ("left_right+above_below", "clear", 80),
    "swapped": ("colour+shape", "clear", 40),
    "pope": ("pope_random+pope_adversarial", "hard", 60),
    "object set": ("caption", "clear", 80),
    "CHAIR clear": ("caption", "clear", 80),
    "CHAIR hard": ("caption", "hard", 80),
    "CHAIR bound": ("caption", "hard", 80),
}


@cache
def examples(kinds: str, difficulty: str, count: int) -> list[Example]:
    return scenes.examples(count * len(kinds.split("+")), kinds=kinds, difficulty=difficulty)


def answered(asked: list[Example], says: Any) -> Rows:
    """The analysis' own rows of a model that answers `says(example, image)`."""

    def answers(subject: Any, batch: Any, image: str, options: Options) -> list[str | None]:
        shown = [image == "real" or e.meta["difficulty"] == options.controls_on for e in batch.examples]
        return [says(e, image) if seen else None for e, seen in zip(batch.examples, shown, strict=True)]

    with mock.patch.object(subject_card, "_answers", answers):
        rows = subject_card.measure(None, SimpleNamespace(examples=tuple(asked)), {}, How(Options()))  # pyright: ignore
    return merge([rows], [condition_of(True)] * len(asked), asked)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables of one condition, see tests/analyses/test_claims.py."""
    if name in ("IOI", "NLL"):
        rows = answered(examples("colour", "clear", 2), lambda example, image: "red")
        return tables_from(subject_card, rows, text=kept(name, holds))
    asked = examples(*ASKED[name])
    return tables_from(subject_card, answered(asked, lambda example, image: said(name, holds, example, image)))


def said(name: str, holds: bool, example: Example, image: str) -> str:
    """The answer that meets the claim, or that misses it."""
    true, kind = example.answer.strip(), example.meta["kind"]
    if name == "swapped":
        return "nothing" if holds and image == "swapped" else true
    if name == "pope":
        easy = kind == "pope_random" if holds else kind == "pope_adversarial"
        return true if easy else "yes"
    if kind == "caption":
        worse = holds if name == "CHAIR hard" else not holds
        return "a moon, a cross, a heart and a star." if worse else true
    return true if holds or example.meta["kind"] in ("colour", "left_right") else "nothing"


def kept(name: str, holds: bool) -> tuple[tuple[Any, ...], ...]:
    """Text prompts of 200 groups: two of them answered worse after training, or one in four; losses 1 or 10 % up."""
    rows = []
    for i in range(200):
        lost = i % 100 == 0 if holds else i % 4 == 0
        growth = (1.01 if holds else 1.10) + 0.001 * (i % 3)
        of_task = ("top-1", float(not lost), 1.0, 1) if name == "IOI" else ("NLL", 10 * growth, 10.0, 5)
        measure, after, before, tokens = of_task
        rows.append(("ioi" if name == "IOI" else "passages", measure, f"g{i}", after, before, tokens))
    return tuple(rows)
