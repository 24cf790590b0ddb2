"""How far one repetition more moves the last state, by how often the token stands there already; and what is tested."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import RANDOM_WEIGHTS
from ..common.frames import joined, summarise
from ..common.stats import quotient
from ..common.tested import nothing, number
from ._collapse_rows import OTHER, named

LESS, SEEN = "one more is seen less and less", "another token is still seen"
ONE_MORE = "one repetition more"
LARGEST, RELATIVE = "largest differences", "relative distance"
OVER_FIRST = "of the value at the shortest run"
ROUNDING = 1e-5  # relative distance, below which a state has not moved


def _distances(rows: Rows, how: How) -> pd.DataFrame:
    """After the final norm: the paper's measure over its value at the shortest run, and the relative distance."""
    return joined(
        [
            summarise(values, part.examples["group"], axes(part, how), unit, front=front, measure=measure, control=name)
            for front, part in rows.subsets("front")
            for name in controls(rows)
            for measure, values, unit in (
                (LARGEST, over_first(part, name), OVER_FIRST),
                (RELATIVE, part[named("final", name)], RELATIVE),
            )
        ]
    )


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """The relative distance in the residual stream, state by state."""
    states = {"state": range(rows["apart"].shape[1])} | axes(rows, how)
    return joined(
        [
            summarise(rows[named("apart", name)], rows.examples["group"], states, RELATIVE, control=name)
            for name in controls(rows)
        ]
    )


def axes(rows: Rows, how: How) -> dict[str, Any]:
    return {"times": how.options.first * 2 ** np.arange(rows["final"].shape[1])}


def controls(rows: Rows) -> list[str]:
    """ "" and the controls that were measured."""
    return [name for name in ("", RANDOM_WEIGHTS, OTHER) if named("final", name) in rows.values]


def over_first(rows: Rows, control: str) -> np.ndarray:
    """[n, lengths]: the paper's measure over its value at the shortest run; NaN where that is rounding alone."""
    values, moved = rows[named("chunks", control)], rows[named("final", control)][:, :1] > ROUNDING
    return quotient(np.where(moved, values, np.nan), np.where(moved, values[:, :1], np.nan))


def at_last(values: np.ndarray) -> np.ndarray:
    """[n]: the value at the longest run that an example has, NaN without any."""
    there = ~np.isnan(values)
    last = values.shape[1] - 1 - there[:, ::-1].argmax(1)
    return values[np.arange(len(values)), last]


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    share = {name: at_last(over_first(rows, name)) for name in controls(rows)}
    groups, own = rows.examples["group"], share[""]
    if np.isnan(own).all():
        reason = "one repetition more changes nothing from the start: let a text stand before the run"
        return pd.concat([nothing(claim, reason) for claim in (LESS, SEEN)], ignore_index=True)
    return pd.concat(
        [
            number(LESS, own, groups, OVER_FIRST),
            *_margins(LESS, own, {name: values for name, values in share.items() if name}, groups),
            number(SEEN, share[OTHER], groups, OVER_FIRST),
            *_margins(SEEN, share[OTHER], {ONE_MORE: own}, groups),
        ],
        ignore_index=True,
    )


def _margins(claim: str, own: np.ndarray, beside: dict[str, np.ndarray], groups: Any) -> Iterator[pd.DataFrame]:
    for control, values in beside.items():
        yield number(claim, own - values, groups, OVER_FIRST, than=control)


TABLES = {
    "distances": (_distances, ("measure", "front", "times")),
    "layers": (_layers, ("times",)),
    "tested": (_tested, ("claim", "than", "untestable")),
}
