"""Planted rows of steering: accuracy .5 as it is and with either control, .95 steered."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import steering
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

DRAWS = 5


def rows(n: int = 80, n_groups: int = 20, steered: float = 0.95, control: float = 0.5, condition: str = "BOS") -> Rows:
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    drawn = lambda share, *shape: (rng.random((n, *shape)) < share).astype(float)  # noqa: E731
    right = {
        "right|clean": drawn(0.5),
        "right|steered": drawn(steered, 4),
        f"right|{steering.HEADS}": drawn(control, 4, DRAWS),
        f"right|{steering.TOKENS}": drawn(0.5, 4, DRAWS),
    }
    difference = {name.replace("right", "difference"): 4 * value - 2 for name, value in right.items()}
    return Rows(examples.assign(condition=condition), right | difference | solved(rng, n, 0.5))


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    return tables_from(steering, rows(steered=0.95 if holds else 0.1), steering.Options(draws=DRAWS))
