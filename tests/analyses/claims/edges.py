"""Planted rows of edges: the paths into the output of 3 × 6 heads, and two edges that are as strong elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import edges
from crosslens.analyses.circuits._edge_names import EXACT, OUTPUT
from crosslens.analyses.common.agreement import FIVE, ONE
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

LEARNED: dict[str, Any] = {"edges": ("0.1 → q of 1.0", "embeddings → MLP 0"), "strengths": (-2.0, 1.0)}


def rows(n: int = 60, n_groups: int = 20) -> Rows:
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    exact = rng.normal(size=(3, 6)) + rng.normal(0, 0.1, (n, 3, 6))
    chosen = np.array(LEARNED["strengths"]) * 0.9 + rng.normal(0, 0.1, (n, 2))
    values = {f"{OUTPUT}|{EXACT}": exact, f"edges|{ONE}": chosen, f"edges|{FIVE}": chosen}
    values[f"{OUTPUT}|{ONE}"] = exact + rng.normal(0, 0.2, (3, 6))
    values[f"{OUTPUT}|{FIVE}"] = exact + rng.normal(0, 0.01, exact.shape)
    return Rows(examples, values | solved(rng, n))


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    made, rng = rows(), np.random.default_rng(1)
    one, five = (f"{OUTPUT}|{estimate}" for estimate in (ONE, FIVE))
    if name == "ranks" and not holds:
        made.values[one][:] = rng.normal(size=(3, 6)) + rng.normal(0, 0.1, made[one].shape)
    if name == "gradients" and not holds:
        made.values[one], made.values[five] = made[five], made[one]
    if name == "again" and not holds:  # winners by luck alone
        made.values[f"edges|{FIVE}"] = rng.normal(0, 0.5, (len(made.examples), 2))
    return tables_from(edges, made, **LEARNED)
