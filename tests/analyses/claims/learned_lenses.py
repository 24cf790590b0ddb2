"""Planted rows of learned lenses: better than the plain ones, or worse."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import _learned_tables
from crosslens.analyses.lenses import learned_lenses as lenses

from ...helpers.makers import tables_from
from . import rows_of, with_words

N, STATES, LAYERS, TOKENS = 36, 9, 3, 6


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)

    def around(mean: float, *shape: int) -> np.ndarray:
        return mean * rng.uniform(0.8, 1.2, (N, *shape))

    good, bad = (0.3, 2.0) if holds else (2.0, 0.3)
    values = {
        "tuned lens|kl": around(good, STATES),
        "logit lens|kl": around(bad, STATES),
        "constant|kl": around(4.0),
        f"{_learned_tables.LEARNED}|heads": around(good, LAYERS),
        **{f"{way}|heads": around(bad, LAYERS) for way in _learned_tables.PLAIN},
        **{f"{lens}|top1": around(0.5, STATES) for lens in _learned_tables.LENSES},
    }
    model = rng.dirichlet(np.full(TOKENS, 5.0), N) * 0.9
    far = np.roll(model, 1, axis=1) ** 3 + 0.01
    near, away = model if holds else far, far
    values["tuned lens|marginal"] = _by_state(near * rng.uniform(0.95, 1.05, model.shape), model)
    values["logit lens|marginal"] = _by_state(away * rng.uniform(0.95, 1.05, model.shape), model)
    layers = ",".join(map(str, range(LAYERS)))
    values |= {
        f"{way}|ids": np.zeros((N, LAYERS, 2, 1), int) for way in (_learned_tables.LEARNED, _learned_tables.HEAD_ALONE)
    }
    values |= {
        f"{way}|logits": np.zeros((N, LAYERS, 2, 1)) for way in (_learned_tables.LEARNED, _learned_tables.HEAD_ALONE)
    }
    return tables_from(lenses, with_words(rows_of(values, groups=18)), layers=layers)


def _by_state(read: np.ndarray, model: np.ndarray) -> np.ndarray:
    """[n, states, tokens]; the last state is the model's own output."""
    return np.stack([read] * (STATES - 1) + [model], 1)
