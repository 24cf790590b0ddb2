"""What similarity compares: image and text of examples, or texts of several labels that share their groups."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data.errors import NothingToMeasure
from ...probes.runs.results import Rows
from ..common.labels import label_column

MOST = 8  # labels
IMAGE, TEXT = "image", "text"
AS_THEY_ARE, CENTRED, WHOLE = "as they are", "centred", "not scaled"
Array = NDArray[np.float64]


class Set(NamedTuple):
    """states: [n, states, d], of length 1 but where they are WHOLE. groups: the number of each one's group, [n]."""

    states: Array
    groups: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Set:
        """Some groups alone (a Boolean for each group), numbered anew."""
        number = np.cumsum(chosen) - 1
        mine = chosen[self.groups]
        return Set(self.states[mine], number[self.groups[mine]])


class Pair(NamedTuple):
    """Two sets. matched: their examples are the same, one by one, and belong together so; else all that share a group.
    name: the labels.
    """

    x: Set
    y: Set
    matched: bool
    name: str = ""


class Compared(NamedTuple):
    """between: what is compared, one pair of sets, or one of every two labels. within: the sets with themselves, by the
    name of the control. groups: how many; n: examples.
    """

    kind: str
    between: list[Pair]
    within: dict[str, list[Pair]]
    groups: int
    n: int

    @property
    def pictured(self) -> bool:
        return self.kind == PICTURES


PICTURES, LABELS = "image and text", "two labels"
WITHIN = {IMAGE: "different images", TEXT: "different texts", LABELS: "different texts of one label"}


def compared(rows: Rows, form: str = AS_THEY_ARE) -> Compared:
    """The sets of a run. NothingToMeasure: neither images, nor two labels that stand in two groups."""
    if IMAGE in rows.values:
        return _pictures(rows.where(_there(rows[IMAGE]) & _there(rows[TEXT])), form)
    return _labels(rows.where(_there(rows[TEXT])), form)


def _there(states: NDArray) -> NDArray[np.bool_]:
    return np.array([not np.isnan(one).any() for one in states[:, 0]], bool)


def _pictures(rows: Rows, form: str) -> Compared:
    codes, count = _codes(rows)
    if count < 2:
        raise NothingToMeasure("similarity: fewer than two groups have an image and text: raise --limit")
    image, text = (Set(scaled(rows[name], form), codes) for name in (IMAGE, TEXT))
    within = {WITHIN[name]: [Pair(one, one, True)] for name, one in ((IMAGE, image), (TEXT, text))}
    return Compared(PICTURES, [Pair(image, text, True)], within, count, len(codes))


def _labels(rows: Rows, form: str) -> Compared:
    labels = label_column(rows)
    told = np.array([bool(label) for label in labels], bool)
    rows, labels = rows.where(told), labels[told]
    names = sorted({*labels.tolist()})
    if not 2 <= len(names) <= MOST:
        said = ", ".join(names[:MOST]) or "none"
        raise NothingToMeasure(
            f"similarity compares image with text, or texts of 2 to {MOST} labels (meta label or kind); these examples "
            f"have no images and {len(names)} labels: {said}; --task texts has languages"
        )
    codes, count = _codes(rows)
    if count < 2:
        raise NothingToMeasure("similarity: all examples are of one group, none is of another to compare with")
    sets = {name: Set(scaled(rows[TEXT][labels == name], form), codes[labels == name]) for name in names}
    pairs = [Pair(sets[a], sets[b], False, f"{a} and {b}") for a, b in combinations(names, 2)]
    within = {WITHIN[LABELS]: [Pair(one, one, False, name) for name, one in sets.items()]}
    return Compared(LABELS, pairs, within, count, len(labels))


def _codes(rows: Rows) -> tuple[NDArray[np.int64], int]:
    names, codes = np.unique(rows.examples["group"].to_numpy(str), return_inverse=True)
    return codes, len(names)


def scaled(states: NDArray, form: str) -> Array:
    """States [n, states, d] at length 1 (0 where they are 0), CENTRED after subtracting the set's mean state; WHOLE as
    they come.
    """
    wide = np.asarray(states, float)
    if form == WHOLE:
        return wide
    wide = wide - wide.mean(0) if form == CENTRED else wide
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)


def sums(one: Set, groups: int) -> tuple[Array, Array]:
    """Σ states of each group, [groups, states, d], and how many, [groups]."""
    whole = np.zeros((groups, *one.states.shape[1:]))
    np.add.at(whole, one.groups, one.states)
    return whole, np.bincount(one.groups, minlength=groups).astype(float)
