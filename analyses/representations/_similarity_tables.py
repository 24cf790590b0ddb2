"""Tables of similarity: cosines state by state, what pairs share, kernels, layers beside layers, each two labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import PAIRS
from ..common.folds import folds_of
from ..common.frames import by_weights, joined
from ._similarity_cosines import Cosines, cosines, entering
from ._similarity_folds import content, crossed, different, kernels, mean_cka
from ._similarity_modes import modes
from ._similarity_sets import AS_THEY_ARE, CENTRED, WHOLE, Compared, Pair, compared
from ._similarity_tested import CONTENT, DRAWN, tested

COSINE, DIFFERENCE = "cosine", "difference of cosines"
ALL, SAME, DIFFERENT = "all pairs", "same", "different"
ENTERING = "image at state 0"
FORMS = (AS_THEY_ARE, CENTRED)
UNBIASED, PLAIN = "unbiased", "plain"


def _likeness(rows: Rows, how: How) -> pd.DataFrame:
    """NothingToMeasure: nothing to compare."""
    return joined(part for form in FORMS for part in _of_form(compared(rows, form), form))


def _of_form(sets: Compared, form: str) -> Iterator[pd.DataFrame]:
    """Every number of one form of the states, with what it is compared with."""
    said = partial(_by_state, sets, states=form)
    found = cosines(sets.between, sets.groups)
    yield said(found.all_pairs, COSINE, measure=ALL, control="")
    yield said(found.same, COSINE, measure=SAME, control="")
    yield said(found.different, COSINE, measure=DIFFERENT, control="")
    for name, pairs in sets.within.items():
        yield said(cosines(pairs, sets.groups).different, COSINE, measure=DIFFERENT, control=name)
    yield from _content(sets, found, measure=CONTENT, states=form)
    if sets.pictured:
        first = cosines([entering(pair) for pair in sets.between], sets.groups)
        yield from _content(sets, first, measure=ENTERING, states=form)


def _content(sets: Compared, found: Cosines, **told: Any) -> Iterator[pd.DataFrame]:
    """Same minus different, and beside it pairs permuted over groups; nothing where no two belong together."""
    if found.n_together.any():
        yield _by_state(sets, found.content, DIFFERENCE, control="", **told)
        yield _by_state(sets, found.permuted_content, DIFFERENCE, control=PAIRS, **told)


def _by_state(sets: Compared, statistic: Callable[[np.ndarray], np.ndarray], unit: str, **told: Any) -> pd.DataFrame:
    axes: dict[str, Any] = {"state": np.arange(_states(sets))}
    found = by_weights(statistic, sets.groups, axes, unit, n=sets.n, n_boot=DRAWN, **told)
    return found[found["value"].notna()]  # without pairs that belong together there is no such number


def _states(sets: Compared) -> int:
    return sets.between[0].x.states.shape[1]


def _pairs(rows: Rows, how: How) -> pd.DataFrame | None:
    """Same minus different of each two labels."""
    sets = compared(rows, CENTRED)
    if sets.pictured:
        return None
    named = ((pair.name, cosines([pair], sets.groups)) for pair in sets.between)
    parts = [part for name, found in named for part in _content(sets, found, labels=name)]
    return joined(parts) if parts else None


def _cka(rows: Rows, how: How) -> pd.DataFrame | None:
    """Kernel alignment of the groups' mean states; with about 20 folds of groups in the groups' place."""
    sets = compared(rows, WHOLE)
    several = [one for pair in sets.between if (one := kernels(pair, sets.groups)) is not None]
    if len(several) < len(sets.between):
        return None
    axes: dict[str, Any] = {"state": np.arange(_states(sets))}
    folds, frames = int(folds_of(np.arange(sets.groups)).max()) + 1, []
    for unbiased, measure in ((True, UNBIASED), (False, PLAIN)):
        own = by_weights(
            partial(mean_cka, several, unbiased), folds, axes, "CKA", n=sets.n, measure=measure, control=""
        )
        chance = np.mean([one.permuted(unbiased) for one in several], 0)
        frames += [own, own.assign(value=chance, lower=np.nan, upper=np.nan, control=PAIRS)]
    return joined(frames)


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """Every state beside every state: of different examples as they are, what pairs share without the set's mean."""
    frames = []
    for form, statistic, measure, unit in (
        (AS_THEY_ARE, different, DIFFERENT, COSINE),
        (CENTRED, content, CONTENT, DIFFERENCE),
    ):
        sets = compared(rows, form)
        for name, pairs in {sets.kind: sets.between, **sets.within}.items():
            told = {"sets": name.removeprefix("different ").removeprefix("texts of "), "measure": measure}
            frames.append(_crossed(sets, pairs, statistic, unit, **told))
    return joined(frames)


def _crossed(compare: Compared, pairs: list[Pair], statistic: Any, unit: str, **told: Any) -> pd.DataFrame:
    parts = [crossed(pair, compare.groups) for pair in pairs]
    every, folds = np.arange(_states(compare)), int(folds_of(np.arange(compare.groups)).max()) + 1
    axes: dict[str, Any] = {"state": every, "other": every}
    found = by_weights(partial(statistic, parts), folds, axes, unit, n=compare.n, n_boot=DRAWN, **told)
    return found[found["value"].notna()]


TABLES = {
    "likeness": (_likeness, ("measure", "states")),
    "cka": (_cka, ("measure",)),
    "layers": (_layers, ("other", "sets", "measure")),
    "pairs": (_pairs, ("labels",)),
    "modes": (modes, ("measure", "mode")),
    "tested": (tested, ("claim", "than", "untestable")),
}
