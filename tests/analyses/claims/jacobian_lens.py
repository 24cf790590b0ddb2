"""Planted rows of the Jacobian lens: it ranks the answer so many times higher than the logit lens and turned maps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import jacobian_lens
from crosslens.analyses.lenses._jacobian_tables import GRADIENT, JACOBIAN, LOGIT, TURNED_AT

from ...helpers.makers import tables_from
from . import rows_of

N, STATES = 60, 9


def tables_of(
    earlier: float = 16,
    turned: float = 1,
    named: float = 3,
    wrong: float = 900,
    last: float = 1,
    solved: bool = True,
) -> dict[str, pd.DataFrame]:
    """earlier, turned: by how much the rank is smaller than the logit lens'. named, wrong: ranks in the gradient;
    last: in that of the last state.
    """
    rng = np.random.default_rng(0)

    def ranks(own: float, other: float) -> np.ndarray:
        return np.stack([rank * rng.lognormal(0, 0.8, (N, STATES)) for rank in (own, other)], -1).round()

    shares = {LOGIT: 1.0, JACOBIAN: earlier, **dict.fromkeys(TURNED_AT, turned)}
    values = {f"{GRADIENT}|rank": ranks(named, wrong)}
    values[f"{GRADIENT}|rank"][:, -1, 0] = last
    for way, share in shares.items():
        values |= {f"{way}|rank": ranks(4000 / share, 5000), f"{way}|kl": rng.uniform(2, 3, (N, STATES))}
        values |= {f"{way}|top1": rng.uniform(0, 1, (N, STATES)).round()}
    values["lead"] = np.abs(rng.normal(2, 0.1, N)) * (1 if solved else rng.choice([-1, 1], N))
    return tables_from(jacobian_lens, rows_of(values, groups=20), lens="planted")


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of() if holds else tables_of(earlier=1.2, named=40, wrong=40)
