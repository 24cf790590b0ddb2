"""Planted rows of highlighting: chosen heads raise the lead by 1 logit, all heads lower it, neutral text stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.common.controls import HEADS, SPAN
from crosslens.analyses.steered import highlighting
from crosslens.analyses.steered._highlighting_tables import CHOSEN, EVERY, NEUTRAL
from crosslens.analyses.steered._neutral import ALL, OURS, PLAIN
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import task

DRAWS, LAYERS, PER_LAYER = 5, 3, 4
OPTIONS = highlighting.Options(draws=DRAWS)
FAILING: dict[str, dict[str, Any]] = {CHOSEN: {"chosen": -1.0}, EVERY: {"every": 0.5}, NEUTRAL: {"loss": 0.4}}


def rows(
    n: int = 80,
    n_groups: int = 20,
    *,
    chosen: float = 1.0,
    every: float = -2.0,
    random: float = 0.0,
    other: float = 0.0,
) -> Rows:
    """What each edit adds to a lead of 1 logit; accuracy follows its sign."""
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    clean = 1 + rng.normal(0, 0.5, n)
    alphas = len(OPTIONS.alphas)
    edits, controls = {"chosen": chosen, "every": every}, {HEADS: random, SPAN: other}
    lead = {f"lead|{name}": clean[:, None] + gain + rng.normal(0, 0.2, (n, alphas)) for name, gain in edits.items()}
    for name, gain in controls.items():
        lead[f"lead|{name}"] = clean[:, None, None] + gain + rng.normal(0, 0.2, (n, alphas, DRAWS))
    lead["lead|clean"] = clean
    right = {name.replace("lead", "right"): (value > 0).astype(float) for name, value in lead.items()}
    return Rows(examples, lead | right | {"guessing": np.full(n, 0.5)})


def learned(*, loss: float = 0.02, every: float = 2.0, neutral: bool = True) -> dict[str, Any]:
    """loss, every: what the chosen heads and all heads add to the loss of neutral text."""
    rng = np.random.default_rng(1)
    plain = 3 + rng.normal(0, 0.2, 16)
    added = {PLAIN: 0.0, OURS: loss, ALL: every, HEADS: 0.01}
    losses = {name: (plain + gain + rng.normal(0, 0.01, 16) * (name != PLAIN)).tolist() for name, gain in added.items()}
    gains = rng.normal(0, 0.05, (12, LAYERS * PER_LAYER)) + np.eye(LAYERS * PER_LAYER)[5]
    return {
        "heads": [[1, 1]],
        "n_heads": PER_LAYER,
        "profile": [(f"h{i}", row.tolist()) for i, row in enumerate(gains)],
        "documents": [f"d{i}" for i in range(16)] if neutral else [],
        "losses": losses if neutral else {},
    }


def tables_of(loss: float = 0.02, neutral: bool = True, **planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(highlighting, rows(**planted), OPTIONS, **learned(loss=loss, neutral=neutral))


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of(**({} if holds else FAILING[name]))
