"""The numbers of the claims about similarity, each with its margin over a control."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import DRAWS, EXCHANGED, PAIRS
from ..common.frames import by_weights, middle
from ..common.stats import split_half
from ..common.tested import nothing
from ._similarity_cosines import Cosines, at_state, cosines, exchanged, where
from ._similarity_sets import CENTRED, Array, Compared, Pair, compared

DRAWN = 1000  # of the bootstrap
CONTENT = "same − different"
RISES, SHARED = "image and text grow alike", "a pair shares content"
NEARER, PAGES = "texts are nearer to texts", "pages meet in the middle"
UNIT, FEWEST = "difference of cosines", 4  # states that have quarters
ELSEWHERE = NO_PICTURES, NO_LABELS = "there are no images", "these are images with text, not texts of several labels"
NO_QUARTERS, NO_HALVES = "fewer than 4 states", "fewer than four groups to choose a state on half of them"
Statistic = Callable[[Array], Array]


def tested(rows: Rows, how: How) -> pd.DataFrame:
    """Of what can be compared; NothingToMeasure without."""
    plain, centred = compared(rows), compared(rows, CENTRED)
    few = plain.between[0].x.states.shape[1] < FEWEST
    if not plain.pictured:
        pages = [nothing(PAGES, NO_QUARTERS)] if few else _pages(centred)
        return _joined([*(nothing(name, NO_PICTURES) for name in (RISES, SHARED, NEARER)), *pages])
    rises = [nothing(RISES, NO_QUARTERS)] if few else _rises(plain)
    if plain.groups < 4:
        chosen = [nothing(name, NO_HALVES) for name in (SHARED, NEARER)]
    else:
        chosen = [*_shared(centred), *_nearer(plain)]
    return _joined([*rises, *chosen, nothing(PAGES, NO_LABELS)])


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)


def _row(sets: Compared, claim: str, statistic: Statistic, than: str = "", state: float = np.nan) -> pd.DataFrame:
    """statistic: weights [draws, G] -> [draws, 1]. state: the one that was chosen."""
    told = {"claim": claim, "than": than, "untestable": "", "state": state}
    return by_weights(statistic, sets.groups, {}, UNIT, n=sets.n, n_boot=DRAWN, **told)


# ---------------------------------------------------------------- image and text


def _rises(sets: Compared) -> list[pd.DataFrame]:
    """Middle half of the states minus the first quarter, of image with text, and beside the sets with themselves."""
    own = cosines(sets.between, sets.groups)
    found = [_row(sets, RISES, lambda w: _rise(own, w))]
    for name, pairs in sets.within.items():
        other = cosines(pairs, sets.groups)
        found.append(_row(sets, RISES, lambda w, other=other: _rise(own, w) - _rise(other, w), name))
    return found


def _rise(found: Cosines, weights: Array) -> Array:
    values = found.different(weights)
    count = values.shape[1]
    return _mean(values[:, middle(count)]) - _mean(values[:, : count // 4])


def _shared(sets: Compared) -> list[pd.DataFrame]:
    """At the state where one half of the groups shares most, of the other half."""
    first, second = split_half(np.arange(sets.groups))
    state = int(cosines(_cut(sets, first).between, int(first.sum())).content(np.ones((1, first.sum())))[0].argmax())
    other = _cut(sets, second)
    found = cosines([at_state(pair, state) for pair in other.between], other.groups)
    return [
        _row(other, SHARED, found.content, state=state),
        _row(other, SHARED, lambda w: found.content(w) - found.permuted_content(w), PAIRS, state),
    ]


def _nearer(sets: Compared) -> list[pd.DataFrame]:
    """At the state where, on one half of the groups, texts are least nearer to texts than to images."""
    first, second = split_half(np.arange(sets.groups))
    half = _cut(sets, first)
    state = int(_gap(half.between[0], half.groups)(np.ones((1, half.groups)))[0].argmin())
    other = _cut(sets, second)
    pair = at_state(other.between[0], state)
    own = _gap(pair, other.groups)
    mixed = [_gap(exchanged(pair, other.groups, draw), other.groups) for draw in range(DRAWS)]
    return [
        _row(other, NEARER, own, state=state),
        _row(other, NEARER, lambda w: own(w) - np.mean([gap(w) for gap in mixed], 0), EXCHANGED, state),
    ]


def _gap(pair: Pair, groups: int) -> Statistic:
    """Text with text minus image with text, of different examples."""
    across, texts = cosines([pair], groups), cosines([pair._replace(x=pair.y)], groups)
    return lambda weights: texts.different(weights) - across.different(weights)


def _cut(sets: Compared, chosen: np.ndarray) -> Compared:
    between = [where(pair, chosen) for pair in sets.between]
    return sets._replace(between=between, within={}, groups=int(chosen.sum()), n=len(between[0].x.groups))


# ---------------------------------------------------------------- texts of several labels


def _pages(sets: Compared) -> list[pd.DataFrame]:
    """What the same group's texts of two labels share, middle half of the states minus both ends."""
    found = cosines(sets.between, sets.groups)
    if not found.n_together.any():
        return [nothing(PAGES, "no group has texts of two labels")]
    return [
        _row(sets, PAGES, lambda w: _hump(found.content(w))),
        _row(sets, PAGES, lambda w: _hump(found.content(w) - found.permuted_content(w)), PAIRS),
    ]


def _hump(values: Array) -> Array:
    half = middle(values.shape[1])
    ends = np.concatenate([values[:, : half.start], values[:, half.stop :]], 1)
    return _mean(values[:, half]) - _mean(ends)


def _mean(values: Array) -> Array:
    return values.mean(1, keepdims=True)
