"""Planted rows of edges: the paths into the output of 3 × 6 heads, and two edges that are as strong elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import edges
from crosslens.probes.runs.results import Rows

from .circuits import solved, task

OPTIONS = edges.Options(heads=(), edges=("0.1 → q of 1.0", "embeddings → MLP 0"), strengths=(-2.0, 1.0))


def rows(n: int = 60, n_groups: int = 20) -> Rows:
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    exact = rng.normal(size=(3, 6)) + rng.normal(0, 0.1, (n, 3, 6))
    chosen = np.array(OPTIONS.strengths) * 0.9 + rng.normal(0, 0.1, (n, 2))
    values = {f"{edges.OUTPUT}|{edges.EXACT}": exact, f"edges|{edges.ONE}": chosen, f"edges|{edges.FIVE}": chosen}
    values[f"{edges.OUTPUT}|{edges.ONE}"] = exact + rng.normal(0, 0.2, (3, 6))
    values[f"{edges.OUTPUT}|{edges.FIVE}"] = exact + rng.normal(0, 0.01, exact.shape)
    return Rows(examples, values | solved(rng, n))


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    made, rng = rows(), np.random.default_rng(1)
    one, five = (f"{edges.OUTPUT}|{estimate}" for estimate in (edges.ONE, edges.FIVE))
    if name == "ranks" and not holds:
        made.values[one][:] = rng.normal(size=(3, 6)) + rng.normal(0, 0.1, made[one].shape)
    if name == "gradients" and not holds:
        made.values[one], made.values[five] = made[five], made[one]
    if name == "again" and not holds:  # winners by luck alone
        made.values[f"edges|{edges.FIVE}"] = rng.normal(0, 0.5, (len(made.examples), 2))
    return edges.tables(made, OPTIONS)
