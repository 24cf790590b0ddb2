"""Planted rows of looking: each edit raises the lead by 1 logit and its controls by none; other text stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.common.controls import HEADS, PERMUTED
from crosslens.analyses.steered import looking
from crosslens.analyses.steered._looked import BLANK, CHOSEN, EVERY, GAZE, OTHER_MAP
from crosslens.analyses.steered._looking_fit import PLAIN
from crosslens.analyses.steered._looking_tables import ABSENT, ALL, GAZED, HEADS_HELP, LESS, TEXT
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import task

DRAWS = 5
OPTIONS = looking.Options(draws=DRAWS)
STRENGTHS = {CHOSEN: 4.0, EVERY: 2.0, GAZE: 2.0}
FAILING: dict[str, dict[str, Any]] = {
    HEADS_HELP: {"chosen": -1.0},
    ALL: {"every": -1.0},
    LESS: {"less": 1.0},
    GAZED: {"gaze": -1.0},
    ABSENT: {"gaze": -1.0},
    TEXT: {"loss": 0.4},
}


def rows(
    n: int = 120,
    n_groups: int = 20,
    *,
    chosen: float = 1.0,
    every: float = 1.0,
    less: float = -1.0,
    gaze: float = 1.0,
    random: float = 0.0,
    permuted: float = 0.0,
    other_map: float = 0.0,
    blank: float = 0.0,
    asked: bool = True,
    drawn: bool = True,
) -> Rows:
    """What each edit adds to a lead of 1 logit, less: at the smallest factor in every head; accuracy follows its sign.

    asked: a third of the questions is right with yes, a third with no; else none is. drawn: there are random draws.
    """
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    clean, empty = 1 + rng.normal(0, 0.5, n), rng.normal(0, 0.5, n)
    factors, alphas = len(OPTIONS.factors), len(OPTIONS.alphas)
    added = {CHOSEN: np.full(factors, chosen), EVERY: np.full(factors, every), GAZE: np.full(alphas, gaze)}
    added[EVERY][0] = less
    made = {"clean": clean, f"clean|{BLANK}": empty}
    controls = {f"{CHOSEN}|{HEADS}": (random, DRAWS), f"{GAZE}|{PERMUTED}": (permuted, DRAWS)}
    controls[f"{GAZE}|{OTHER_MAP}"] = other_map, 1
    for name, gains in added.items():
        made[name] = clean[:, None] + gains + rng.normal(0, 0.2, (n, len(gains)))
        made[f"{name}|{BLANK}"] = empty[:, None] + blank + rng.normal(0, 0.2, (n, len(gains)))
    for name, (gain, count) in controls.items() if drawn else ():
        made[name] = clean[:, None] + gain + rng.normal(0, 0.2, (n, count))
    kinds = np.arange(n) // n_groups % 3 if asked else np.full(n, 2)
    values = {f"lead|{name}": value for name, value in made.items()}
    for name, value in made.items():
        right = (value > 0).astype(float)
        kind = kinds.reshape(-1, *[1] * (value.ndim - 1))
        values[f"right|{name}"] = right
        values[f"yes|{name}"] = np.where(kind == 0, right, np.where(kind == 1, 1 - right, np.nan))
    return Rows(examples, values | {"guessing": np.full(n, 0.5), "asked": kinds.astype(float)})


def learned(*, loss: float = 0.02, every: float = 2.0, texts: bool = True) -> dict[str, Any]:
    """loss, every: what the chosen heads and all heads add to the loss of other text."""
    rng = np.random.default_rng(1)
    plain = 3 + rng.normal(0, 0.2, 16)
    added = {PLAIN: 0.0, CHOSEN: loss, EVERY: every, HEADS: 0.01}
    losses = {name: (plain + gain + rng.normal(0, 0.01, 16) * (name != PLAIN)).tolist() for name, gain in added.items()}
    return {
        "heads": [[1, 1]],
        "strengths": STRENGTHS,
        "gazing": [1, 2],
        "documents": [f"d{i}" for i in range(16)] if texts else [],
        "losses": losses if texts else {},
    }


def tables_of(loss: float = 0.02, texts: bool = True, **planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(looking, rows(**planted), OPTIONS, **learned(loss=loss, texts=texts))


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of(**({} if holds else FAILING[name]))
