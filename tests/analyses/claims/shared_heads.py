"""Planted runs whose tasks choose five heads of 6 × 12 each: the same ones, or others of the same layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from crosslens.analyses.steered import shared_heads

from ...helpers.makers import tables_from_runs

SHAPE = (6, 12)
Head = tuple[int, int]
SOME: tuple[Head, ...] = ((1, 1), (2, 3), (3, 4), (4, 0), (4, 7))
OTHERS: tuple[Head, ...] = ((1, 6), (2, 8), (3, 9), (4, 2), (4, 11))
EVERY: tuple[Head, ...] = tuple(np.ndindex(*SHAPE))


def run_of(chosen: Sequence[Head], again: Sequence[Head] | None = None, n: int = 24) -> dict[str, pd.DataFrame]:
    """What a run of highlighting has of its heads; with `again`, the choice of a second seed, a run of lofit."""
    places = list(np.ndindex(*SHAPE))
    rows = pd.DataFrame(places, columns=["layer", "head"])
    rows["value"] = np.random.default_rng(len(chosen) + n).normal(size=len(places))
    rows = rows.assign(chosen=[place in chosen for place in places], n=n, n_groups=n // 2)
    if again is None:
        return {"heads": rows}
    rows = rows.assign(chosen_by_second=[place in again for place in places])
    return {"heads": pd.concat([rows.assign(measure="‖A‖", seed=1), rows.assign(measure="‖A‖", seed=2)])}


def tables_of(
    first: Sequence[Head] = SOME, second: Sequence[Head] = SOME, again: Sequence[Head] | None = None
) -> dict[str, pd.DataFrame]:
    return tables_from_runs({"a": run_of(first, again), "b": run_of(second, again, 30)}, module=shared_heads)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim holds; or in which tasks share fewer heads than any sets of the same layers would."""
    if holds:
        return tables_of()
    half = [(layer, head) for layer, head in EVERY if head < SHAPE[1] // 2]
    return tables_of(half, [place for place in EVERY if place not in half])
