"""Planted rows of the image lens: the asked object's patches name it, or name something else."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import image_lens

from ...helpers.makers import tables_from
from . import rows_of, with_words

N, STATES = 40, 9


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    late = (np.arange(STATES) >= STATES // 2) * (0.5 if holds else -0.2)
    asked = np.clip(0.33 + late + 0.1 * rng.normal(size=(N, STATES)), 0, 1)
    return tables_of(asked, np.full((N, STATES), 0.33) + 0.05 * rng.normal(size=(N, STATES)))


def tables_of(asked: np.ndarray, other: np.ndarray, groups: int = 20) -> dict[str, pd.DataFrame]:
    n, states = asked.shape
    measured = {"asked": asked, "other": other, "rest": other}
    values = {f"{m}|{place}": x for place, x in measured.items() for m in ("agreement", "named", "entropy")}
    values |= {"chance": np.full(n, 1 / 3), "picture": np.zeros((n, 2, 2, 3), np.uint8)}
    values |= {"ids": np.zeros((n, states, 4, 1), int), "probability": np.full((n, states, 4, 1), 0.5)}
    values |= {"grid": np.full((n, 2), 2), "cell": np.tile(np.arange(4.0), (n, 1)), "unplaced": np.zeros(n)}
    rows = rows_of(values, groups=groups)
    return tables_from(image_lens, with_words(rows), image_lens.Options(shown=1))
