"""Planted rows of faithfulness: a tenth of the heads does .95 of a task of 4 logits, random heads .1."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import _faithfulness_tables, faithfulness
from crosslens.analyses.common.agreement import ESTIMATES
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

RANKING = tuple((layer, head) for layer in range(5) for head in range(20))
OPTIONS = faithfulness.Options(draws=4)
LEARNED = {"ranking": RANKING, "helpful": RANKING}


def rows(n: int = 60, n_groups: int = 20, own: float = 0.95, random: float = 0.1) -> Rows:
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    whole = solved(rng, n)
    shares = np.array(_faithfulness_tables.SHARES)
    reached = [np.interp(shares, [0, 0.1, 1], [0, at, 1]) for at in (own, random)]
    curves = [whole["clean"][:, None] * share + rng.normal(0, 0.05, (n, len(shares))) for share in reached]
    values = {"curve": np.stack([curves[0]] * 2, 1), "random": np.stack([np.stack([curves[1]] * 4, 1)] * 2, 1)}
    exact = rng.normal(size=(5, 20)) ** 3 + rng.normal(0, 0.01, (n, 5, 20))
    for part, effects in (("head", exact), ("mlp", exact[..., 0])):
        values |= {f"{part}|{name}": effects for name in (_faithfulness_tables.EXACT, *ESTIMATES)}
    values["head|5 steps"] = exact + rng.normal(0, 0.5, (5, 20))
    return Rows(examples, values | whole)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    numbers = {"faithful": {"own": 0.5}, "not depth": {"own": 0.5, "random": 0.8}}
    made = rows() if holds else rows(**numbers.get(name, {}))
    if name == "gradients" and not holds:
        made.values["head|5 steps"] = np.roll(made["head|5 steps"], 7, axis=2)
    return tables_from(faithfulness, made, OPTIONS, **LEARNED)


def made(planted_rows: Rows) -> dict[str, pd.DataFrame]:
    """Tables of planted rows."""
    return tables_from(faithfulness, planted_rows, OPTIONS, **LEARNED)
