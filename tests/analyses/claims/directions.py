"""Planted rows of directions: a layer at which the measured direction raises its answer, and loses it projected out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.steered import directions
from crosslens.analyses.steered._directed import READ
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from

LAYERS, AT, DRAWS, N = 6, 3, 2, 80
OPTIONS = directions.Options(draws=DRAWS)
STEPS = len(OPTIONS.strengths) + 1
LEARNED: dict[str, Any] = {"positive": "yes", "counts": (10, 10), "selected_on": ()}


def rows(
    *, steers: float = 1.0, needed: float = 1.0, control: float = 0.0, groups: int = 20, at: int | slice = AT
) -> Rows:
    """steers: logits that the direction adds at strength 1; needed: that go with it; control: the controls'
    share of both; at: the layers of all this.
    """
    rng = np.random.default_rng(0)
    kinds = 1 + 2 * DRAWS
    effect = np.zeros((kinds, LAYERS, STEPS))
    share = np.array([1.0, *[control] * (kinds - 1)])[:, None]
    effect[:, at, :-1] = _over(at, share * steers * np.array(OPTIONS.strengths))
    right = np.zeros_like(effect)
    right[:, at, -1] = _over(at, -share[:, 0] * needed)
    made = {}
    for name, planted in zip(READ, (effect, right, right / 4), strict=True):
        clean = rng.normal(size=N)
        noise = 0.1 * rng.normal(size=(N, kinds, LAYERS, STEPS))
        made |= {f"clean|{name}": clean, f"edited|{name}": clean[:, None, None, None] + planted + noise}
    examples = pd.DataFrame({"id": [f"e{i}" for i in range(N)], "group": [f"g{i % groups}" for i in range(N)]})
    return Rows(examples.assign(condition="BOS"), made)


def _over(at: int | slice, values: np.ndarray) -> np.ndarray:
    return values if isinstance(at, int) else values[:, None]


def tables_of(quality: float = 0.1, **planted: Any) -> dict[str, pd.DataFrame]:
    cost = np.full((6, 2, LAYERS, 3), quality).tolist()
    return tables_from(directions, rows(**planted), OPTIONS, **LEARNED, quality=cost)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of() if holds else tables_of(steers=-1.0, needed=-1.0, at=slice(None))
