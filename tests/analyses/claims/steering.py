"""Planted rows of steering: accuracy .5 as it is and with either control, .95 steered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import steering
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

DRAWS = 5


def rows(
    n: int = 80,
    n_groups: int = 20,
    steered: float = 0.95,
    control: float = 0.5,
    condition: str = "BOS",
    silent: float = 0.2,
    look: float = 0.4,
) -> Rows:
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
    task_rows = solved(rng, n, 0.5) | {"guessing": np.full(n, 0.2)}
    return Rows(examples.assign(condition=condition), right | difference | task_rows | beside(drawn, silent, look))


def beside(drawn: Callable[..., np.ndarray], silent: float, look: float) -> dict[str, np.ndarray]:
    """Accuracy .5 without random heads and `silent` without the gatherers; the movers' attention on the answer .2, and
    `look` where the heads of IOI are steered.
    """
    right = {"clean": drawn(0.5), "": drawn(silent), steering.HEADS: drawn(0.5, DRAWS)}
    shares = {"clean": 0.2, "steered": look, steering.HEADS: 0.2}
    attention = {name: share + 0.05 * drawn(0.5) for name, share in shares.items()}
    kept = {f"silent|right|{name}".rstrip("|"): value for name, value in right.items()}
    kept |= {f"silent|difference|{name}".rstrip("|"): 4 * value - 2 for name, value in right.items()}
    return kept | {f"looks|{mark}|{k}": v for mark in ("the answer", "the wrong options") for k, v in attention.items()}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    return tables_from(
        steering, rows(**{} if holds else {"steered": 0.1, "silent": 0.8, "look": 0.1}), steering.Options(draws=DRAWS)
    )
