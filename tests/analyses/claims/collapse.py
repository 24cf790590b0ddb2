"""Planted rows of collapse: distances that fall as fast as is asked, over the lengths of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.common.controls import RANDOM_WEIGHTS
from crosslens.analyses.representations import collapse
from crosslens.analyses.representations._collapse_rows import OTHER, named
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, STATES, LENGTHS = 40, 20, 5, 6
FRONTS = ("the same from the start", "another one first")


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == "one more is seen less and less":
        return tables_of(falls=1.5 if holds else 0.05)
    return tables_of(others=0.0 if holds else 1.0)


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(collapse, rows(**planted))


def rows(
    *, falls: float = 1.5, random: float = 0.5, others: float = 0.0, start: float = 0.1, twin: bool = True
) -> Rows:
    """falls, random, others: how many times the distance of one repetition more, with random weights, and of another
    last token is halved when a run gets twice as long. start: how far one more moves the state behind the shortest run.
    """
    rng, doublings = np.random.default_rng(0), np.arange(LENGTHS)
    values: dict[str, np.ndarray] = {}
    asked = {"": (start, falls), OTHER: (0.8, others)} | ({RANDOM_WEIGHTS: (0.1, random)} if twin else {})
    for control, (first, halved) in asked.items():
        noise = rng.uniform(0.8, 1.2, (N, 1)) * rng.uniform(0.9, 1.1, (N, LENGTHS))
        final = first * noise * 0.5 ** (halved * doublings)
        values |= {named("final", control): final, named("chunks", control): 5 * final}
        values[named("apart", control)] = final[:, None] * np.linspace(0, 1, STATES)[:, None]
    return rows_of(values, GROUPS, front=[FRONTS[i % 2] for i in range(N)])
