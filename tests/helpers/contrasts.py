"""A tiny task with corrupt twins of equal length, for whole runs of the circuit analyses in milliseconds."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task

from .tiny import WORDS


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any, size: int = 6) -> list[Example]:
    """Random words; the twin says another word in one place. Answer and foil are random too: nothing is solved."""
    rng = random.Random(seed)
    made = []
    for i in range(n or 8):
        words = rng.sample(WORDS, size + i % 3)
        other, answer, foil = rng.sample([w for w in WORDS if w not in words], 3)
        changed = [words[0], other, *words[2:]]
        id, group = f"c{seed}-{i:02d}", f"g{i // 2}"
        twin = Example(f"{id}-corrupt", group, _segment(changed), " " + foil, (" " + answer,))
        made.append(Example(id, group, _segment(words), " " + answer, (" " + foil,), twin))
    return made


def four_groups(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """The same in four groups: none is to spare for held-out examples."""
    return [replace(example, group=f"g{i % 4}") for i, example in enumerate(examples(n, seed, tokenizer=tokenizer))]


def _segment(words: list[str]) -> tuple[Segment]:
    first, second = len(words[0]), len(words[1])
    marks = {"second_subject": [(0, first)], "indirect_object": [(first + 1, first + 1 + second)]}
    return (Segment("text", " ".join(words), marks),)


def task(make: Any = examples) -> Task:
    """The tiny task, as `open_task` would give it."""
    module: Any = SimpleNamespace(
        __doc__="Random words and their twins", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=make
    )
    return Task("twins", module, {})
