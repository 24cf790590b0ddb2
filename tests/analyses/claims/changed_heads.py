"""Planted rows of changed_heads: of 6 × 8 heads some carry the task in both models, and one was changed, or many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import changed_heads
from crosslens.analyses.circuits._changed_tables import FEW, KEPT, MEASURES, other
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

N, GROUPS, LAYERS, HEADS = 60, 20, 6, 8
CHANGED = (4, 3)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == KEPT:
        return tables_of(kept=holds)
    if name == FEW:
        return tables_of(few=holds)
    return tables_of(change=2.0 if holds else 0.0)


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(changed_heads, rows(**planted))


def rows(
    *, kept: bool = True, few: bool = True, change: float = 2.0, right: float = 0.95, groups: int = GROUPS
) -> Rows:
    """kept: the same heads carry the task in both. change: logits that one head gives more here; few: one, not all.

    right: the share that the other model answers right.
    """
    rng = np.random.default_rng(0)
    examples, _ = task(rng, N, groups)
    there = rng.normal(0, 0.5, (LAYERS, HEADS))
    here = there.copy() if kept else np.roll(rng.permuted(there, axis=1), 1, 0)
    if few:
        here[CHANGED] -= change
    else:
        here += 0.2 * change * np.where(np.arange(HEADS) % 2, 1, -1)
    noise = 0.02

    def drawn(mean: np.ndarray) -> np.ndarray:
        return mean + rng.normal(0, noise, (N, LAYERS, HEADS))

    values = {f"head|{measure}": drawn(here) for measure in MEASURES}
    values |= {other(f"head|{measure}"): drawn(there) for measure in MEASURES}
    theirs = {other(name): numbers for name, numbers in solved(rng, N, right).items()}
    return Rows(examples, values | solved(rng, N) | theirs)
