"""Planted runs of circuits: four of 10 × 20 heads carry the task; two tasks with the same four, or with others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import _circuit_tables

from ...helpers.makers import tables_from_runs

SHAPE = (10, 20)
Head = tuple[int, int]
SOME: tuple[Head, ...] = ((2, 1), (5, 3), (7, 4), (8, 0))
OTHERS: tuple[Head, ...] = ((2, 6), (5, 7), (7, 9), (8, 11))


def effects_of(heads: Sequence[Head], seed: int = 0) -> np.ndarray:
    effects = np.random.default_rng(seed).normal(0, 0.01, SHAPE)
    effects[tuple(np.array(heads).T)] = -3.0
    return effects


def tables_of(
    effects: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray] | None = None,
    n: int = 20,
    stages: Sequence[str] = (_circuit_tables.DIRECT,),
    condition: str = "no BOS",
) -> dict[str, pd.DataFrame]:
    """What a run of circuits gives: the same effects at every stage."""
    layer, head = np.indices(effects.shape)
    cells = {"layer": layer.ravel(), "head": head.ravel(), "condition": condition, "n": n, "n_groups": 10}
    rows = [pd.DataFrame(cells | {"value": effects.ravel(), "measure": stage, "part": "head"}) for stage in stages]
    stability = [
        pd.DataFrame(cells | {"value": half.ravel(), "measure": stage, "half": i})
        for stage in stages
        for i, half in enumerate(halves or (effects, effects), 1)
    ]
    return {"effects": pd.concat(rows), "stability": pd.concat(stability)}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    second = SOME if holds else OTHERS
    runs = {}
    for task, heads, seed in (("a", SOME, 0), ("b", second, 3)):
        effects = effects_of(heads, seed)
        noise = np.random.default_rng(seed + 1).normal(0, 0.02, SHAPE)
        runs[task] = tables_of(effects, (effects + noise, effects - noise))
    return tables_from_runs(runs)
