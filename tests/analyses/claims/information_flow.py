"""Planted rows of information flow: routes that cost what the papers say, or the opposite."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.flow import information_flow as flow

from ...helpers.makers import tables_from
from . import rows_of

N, LAYERS = 24, 9


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    sign = 1 if holds else -1
    rng = np.random.default_rng(0)
    values = {
        "clean": np.tile([0.8, np.log(0.8), 0.9, 1.0], (N, 1)),
        "correct": np.ones(N),
        "guess": np.full(N, 0.25),
        **{f"answer|{norm}": rng.random((N, LAYERS + 1)) for norm in flow.NORMS},
        **_flows(rng, sign),
        **_trace(rng, sign),
    }
    return tables_from(flow, rows_of(values, groups=12), flow.Options(subset=""))


def _flows(rng: np.random.Generator, sign: int) -> dict[str, np.ndarray]:
    """Flow -> the probability that is left, layer by layer: by thirds around .5."""
    thirds = {
        "image → question|": (-0.2 * sign, 0, 0.2 * sign),
        "question → last|": (0.2 * sign, -0.2 * sign, 0.0),
        "image → last|": (0.3 * sign, 0.3 * sign, 0.3 * sign),
        "asked object → question|": (0, -0.2 * sign, 0),
        "asked object → question|random patches": (0, 0, 0),
        "subject → last|": (0, -0.2 * sign, 0),
        "subject → last|random positions": (0, 0, 0),
    }
    made = {}
    for flow_name, means in thirds.items():
        left = 0.5 + np.repeat(means, LAYERS // 3) + 0.05 * rng.normal(size=(N, LAYERS))
        made[f"flow|{flow_name}"] = np.stack([left, np.log(left), left, left], -1)
        if "random" in flow_name:
            made[f"flow|{flow_name}"][:, [layer for layer in range(LAYERS) if layer % 3]] = np.nan
    return made


def _trace(rng: np.random.Generator, sign: int) -> dict[str, np.ndarray]:
    """The subject's last token restores in the first half of the states, the last position in the second."""
    step = np.where(np.arange(LAYERS) < LAYERS / 2, 0.3, -0.3) * sign
    noise = 0.05 * rng.normal(size=(2, N, LAYERS))
    return {
        f"trace|{flow.BUCKETS[3]}": 0.4 + step + noise[0],
        f"trace|{flow.BUCKETS[5]}": 0.4 - step + noise[1],
        "trace|clean": 0.9 + 0.02 * rng.normal(size=N),
        "trace|corrupt": 0.1 + 0.02 * rng.normal(size=N),
    }
