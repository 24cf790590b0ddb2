"""Planted rows of probing: states that hold labels from some layer on, and states that hold a word instead; patches
that tell what lies there, or where they lie; pictures that one patch tells of, or all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.representations import probing
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import with_words

N, STATES, WIDTH, SIDE = 60, 4, 6, 3
OPTIONS = probing.Options(draws=2)
CLASSES, WORDS = 3, 6


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == "the picture in the middle layers":
        return tables_of(seen=(1, 2) if holds else (0,))
    if name == "what lies there":
        return tables_of(lying=(1, 2), by_place=not holds)
    if name == "learned queries":
        return tables_of(pooled="one patch" if holds else "all patches", count=N if holds else 4 * N)
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
    lying: tuple[int, ...] | None = None,
    by_place: bool = False,
    pooled: str = "",
) -> Rows:
    """Examples in as many groups. seen: the states of the image that hold the number of objects, and a circle and a
    red thing in the picture. answered: the states of the last position that hold the answer; words: that hold the word
    asked about, whatever the answer is. lying: the states of single patches that hold what lies there, which by_place
    makes their place tell as well; None: no patches. pooled: which patches hold the number of objects, "" for none.
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
    values |= {} if lying is None else patches(lying, by_place, count)
    values |= whole(pooled, more) if pooled else {}
    things = np.where(more == 1, "red circle, blue star", "blue star")
    told = {"objects": things, "n_objects": more + 1} if pictures else {}
    names = {"id": [f"e{i:03d}" for i in each], "group": [f"g{i:03d}" for i in each], "condition": "no BOS"}
    return with_words(Rows(pd.DataFrame({**names, **told}), values))


def patches(lying: tuple[int, ...], by_place: bool, count: int) -> dict[str, np.ndarray]:
    """Four patches of each example: two inside of a thing, of two colours and two shapes."""
    rng = np.random.default_rng(1)
    place = rng.integers(0, 4, (count, 4, 2))
    inside = np.tile([1, 1, 0, 0], (count, 1))
    thing = rng.integers(0, 2, (count, 4, 2))
    if by_place:
        place = np.stack([2 * inside + thing[..., 0], thing[..., 1]], -1)
    told = np.concatenate([place, inside[..., None], np.where(inside[..., None] == 1, thing, np.nan)], -1)
    states = rng.normal(size=(count, STATES, 4, WIDTH))
    for state in lying:
        states[:, state, :, :3] += 8 * np.concatenate([inside[..., None], thing], -1)
    return {"patch": states, "patch|told": told}


def whole(pooled: str, more: np.ndarray) -> dict[str, np.ndarray]:
    """A grid of SIDE × SIDE patches: what tells stands in one, at any place and marked, or faintly in all."""
    rng, count = np.random.default_rng(0), len(more)
    x, sign = rng.normal(size=(count, SIDE**2, WIDTH)), 2 * more - 1
    if pooled == "one patch":
        at = np.arange(count), rng.integers(0, SIDE**2, count)
        x[..., 0] *= 3
        x[(*at, 0)] = 2 * sign
        x[(*at, 1)] += 6
    else:
        x[..., 0] += 0.35 * sign[:, None]
    cells = np.tile(np.arange(SIDE**2, dtype=float), (count, 1))
    picture = np.zeros((count, 8, 8, 3), np.uint8)
    return {"whole": x, "whole|cell": cells, "whole|grid": np.full((count, 2), SIDE), "picture": picture}
