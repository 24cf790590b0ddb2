"""Planted rows of probing: states that hold labels from some layer on, and states that hold a word instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.representations import probing
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import with_words

N, STATES, WIDTH = 60, 4, 6
OPTIONS = probing.Options(draws=2)
CLASSES, WORDS = 3, 6


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == "the picture in the middle layers":
        return tables_of(seen=(1, 2) if holds else (0,))
    return tables_of(answered=(1, 2) if holds else (), count=N if holds else 4 * N)


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(probing, rows(**planted), OPTIONS)


def rows(
    *,
    seen: tuple[int, ...] = (1, 2),
    answered: tuple[int, ...] = (1, 2),
    words: tuple[int, ...] = (),
    pictures: bool = True,
    answers: bool = True,
    count: int = N,
) -> Rows:
    """Examples in as many groups. seen: the states of the image that hold the number of objects, and a circle and a
    red thing in the picture. answered: the states of the last position that hold the answer; words: that hold the word
    asked about, whatever the answer is.
    """
    rng, each = np.random.default_rng(0), np.arange(count)
    answer, word, more = rng.permutation(each % CLASSES), each % WORDS, rng.permutation(each % 2)
    image, last = rng.normal(size=(2, count, STATES, WIDTH))
    for state in range(STATES):
        image[:, state, 0] += 8 * more * (state in seen)
        last[:, state, :CLASSES] += 8 * np.eye(CLASSES)[answer] * (state in answered)
        last[:, state] += 8 * np.eye(WORDS)[word] * (state in words)
    tail = np.stack([np.zeros(count), word], 1)
    values = {"last": last, "answer": answer if answers else np.full(count, -1), "tail": tail}
    values |= {"place": np.full((count, 2), np.nan)} | ({"image": image} if pictures else {})
    things = np.where(more == 1, "red circle, blue star", "blue star")
    told = {"objects": things, "n_objects": more + 1} if pictures else {}
    names = {"id": [f"e{i:03d}" for i in each], "group": [f"g{i:03d}" for i in each], "condition": "no BOS"}
    return with_words(Rows(pd.DataFrame({**names, **told}), values))
