"""Planted rows of sinks: a massive first token that takes half of the attention, image tokens like it; or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.attention import sinks

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, HEADS, TOKENS, WIDTH, PATCHES = 40, 20, 6, 4, 16, 8, 36
OPTIONS = sinks.Options(draws=4)
LEARNED: dict[str, Any] = {"dimensions": (3,), "tau": 5.0, "taus": (2.0, 5.0, 9.0)}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_from(
        sinks,
        rows_of(
            values(
                massive=0.0 if wrong == "massive dimensions" else 5_000.0,
                first=0.1 if wrong == "first token" else 0.6,
                agree=wrong != "criteria agree",
                hidden=0.01 if wrong == "hidden sinks" else 0.2,
                visual=0.001 if wrong == "visual sinks" else 0.05,
                harm=0.9 if wrong == "masking visual sinks" else 0.0,
            ),
            GROUPS,
        ),
        OPTIONS,
        **LEARNED,
    )


def values(
    *,
    massive: float = 5_000.0,
    first: float = 0.6,
    agree: bool = True,
    hidden: float = 0.2,
    visual: float = 0.05,
    harm: float = 0.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Rows with the sink at position 0. first: its share of attention. agree: attention goes to it, not elsewhere.
    hidden: share of heads with a hidden sink; visual: of image tokens above τ. harm: accuracy that masking those above
    the learned τ costs; masking random ones costs .25, and those above a larger τ nothing.
    """
    rng = np.random.default_rng(seed)
    phi = np.where(np.arange(TOKENS) == 0, 10.0, 1.0) + rng.random((N, LAYERS, TOKENS))
    place = np.where(rng.random((N, LAYERS, 1)) < (0.9 if agree else 0.1), 0, 5)
    at = np.where(np.arange(TOKENS) == place, 0.6, 0.02) + 0.01 * rng.random((N, LAYERS, TOKENS))
    mild = 1 + 0.05 * rng.random((N, LAYERS, HEADS))
    right = np.repeat((rng.random((N, 1)) < 0.9), 3, 1)
    lost = np.stack([rng.random(N) < harm, rng.random(N) < harm, np.zeros(N, bool)], 1)
    by_draw = (rng.random((N, 3, 4)) > np.array([0.25, 0.25, 0.6])[None, :, None]) & right[..., None]
    return {
        **{"phi": phi, "received": at, "column_mean": at, "hidden": at * 0, "length": np.full(N, TOKENS)},
        **{"peaks": massive * mild[..., :1], "median_magnitude": mild[..., 0]},
        **{"first_share": first * mild, "sink_share": first * mild, "random_share": 0.02 * mild},
        "hidden_rate": (rng.random((N, LAYERS, HEADS)) < hidden).astype(float),
        "uniform": np.repeat(np.linspace(0.2, 0.01, TOKENS)[None], N, 0),
        **{f"magnitude_{which}": rng.random((N, WIDTH)) for which in ("first", "median")},
        **{"grid": np.full((N, 2), 6.0), "unplaced": np.zeros(N), "cell": np.tile(np.arange(float(PATCHES)), (N, 1))},
        "picture": np.zeros((N, 2, 2, 3), np.uint8),
        "visual|phi": np.repeat([[[9.0, 8.0, 1.0]]], N, 0).repeat(LAYERS, 1),
        "visual|sinks": rng.poisson(visual * 100, (N, LAYERS)).astype(float),
        "visual|tokens": np.full((N, LAYERS), 100.0),
        **{f"visual|{which}": np.full((N, LAYERS), np.nan) for which in ("on_object", "object_tokens")},
        "visual|contribution": np.ones((N, LAYERS, 3)),
        **{f"visual|{which}": mild / 2 for which in ("mass", "nonsink")},
        "visual|patches": rng.random((N, LAYERS, PATCHES)),
        "masked|plain": np.where(right[:, 0], 1.0, -1.0),
        "masked|right": np.concatenate([(right & ~lost)[..., None], by_draw], 2).astype(float),
        "masked|count": np.repeat([[9.0, 4.0, 2.0]], N, 0),
    }
