"""Planted rows of rope_bases: the mixture loses .1 nats a token less than the trained base, bases near it as much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.steered import rope_bases
from crosslens.analyses.steered._base_tables import CLOSE, HELPS, RIGHT
from crosslens.analyses.steered._based import DOUBLINGS, MIXED, NEAR, TRAINED, alone, kinds
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import task

OPTIONS = rope_bases.Options()
KINDS = kinds(OPTIONS.factors)
FAILING: dict[str, dict[str, Any]] = {HELPS: {"mixed": 0.2}, RIGHT: {"mixed": 0.2}, CLOSE: {"mixed": 0.2}}


def rows(n: int = 80, n_groups: int = 20, *, mixed: float = -0.1, nearby: float = 0.0, largest: float = 0.5) -> Rows:
    """Nats a token that each adds to 3; half of the tokens behind 32 tokens, half behind 64."""
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    loss = np.repeat(3 + rng.normal(0, 0.3, (n, 1)), len(KINDS), 1)
    for kind, added in ((MIXED, mixed), (NEAR, nearby), (alone(max(OPTIONS.factors)), largest)):
        loss[:, KINDS.index(kind)] += added
    loss += rng.normal(0, 0.02, loss.shape) * (np.array(KINDS) != TRAINED)
    count = np.zeros((n, DOUBLINGS))
    count[:, [5, 6]] = 8
    each = count[:, None] * np.stack([loss, np.exp(-loss)])[..., None]
    weight = np.full((n, len(OPTIONS.factors)), 16 / len(OPTIONS.factors))
    values = {"loss": each[0], "probability": each[1], "count": count, "weight": weight}
    return Rows(examples, values, {"waveform": rng.normal(0, 1, (len(OPTIONS.factors), 8))})


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(rope_bases, rows(**planted), OPTIONS)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of(**({} if holds else FAILING[name]))
