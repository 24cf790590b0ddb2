"""Planted rows of relations: divergences of two models, more of it in the upper layers or not, beside the controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.common.controls import RANDOM_WEIGHTS
from crosslens.analyses.representations import relations
from crosslens.analyses.representations._relations_rows import KINDS, TEXT
from crosslens.analyses.representations._relations_tables import named
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS = 30, 15, 6


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == "related models relate alike":
        return tables_of(apart=0.1 if holds else 1.2)
    return tables_of(deeper=1.0 if holds else -0.5)


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(relations, rows(**planted))


def rows(
    *, apart: float = 0.1, deeper: float = 1.0, random: float = 1.0, steeper: float = 0.2, texts: bool = True
) -> Rows:
    """apart: divergence over that of another text; random: the same of random weights. deeper, steeper: the difference
    of upper and lower half over their mean, of the models and of the controls.
    """
    rng = np.random.default_rng(0)

    def drawn(mean: float, rise: float) -> np.ndarray:
        course = 1 + rise * np.where(np.arange(LAYERS) < LAYERS // 2, -0.5, 0.5)
        return mean * course[:, None] * rng.uniform(0.9, 1.1, (N, LAYERS, len(KINDS)))

    values = {named(""): drawn(apart, deeper), named(RANDOM_WEIGHTS): drawn(random, steeper)}
    return rows_of(values | ({named(TEXT): drawn(1.0, steeper)} if texts else {}), GROUPS)
