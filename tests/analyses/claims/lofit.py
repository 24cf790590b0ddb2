"""Planted rows of lofit: two heads that both seeds choose, whose offsets raise log p by 2 nats and cost nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.common.controls import DIRECTION, HEADS
from crosslens.analyses.steered import lofit
from crosslens.analyses.steered._lofit_learned import EDITS, MEANS, OURS, PLAIN, SCALED, SECOND
from crosslens.analyses.steered._lofit_tables import CHOSEN, NEUTRAL, SEEDS
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import task

DRAWS, LAYERS, PER_LAYER, COUNT = 2, 6, 8, 6
PLACES = [(1, 0), (1, 3), (2, 2), (3, 5), (4, 1), (4, 7)]
ELSEWHERE = [(1, 1), (1, 4), (2, 6), (3, 0), (4, 2), (4, 3)]  # as many in every layer
OPTIONS = lofit.Options(top=COUNT, draws=DRAWS)
FAILING: dict[str, dict[str, Any]] = {CHOSEN: {"own": -1.0}, SEEDS: {}, NEUTRAL: {"loss": 0.4}}


def rows(n: int = 80, n_groups: int = 20, *, own: float = 2.0, random: float = 0.5, wrong: bool = True) -> Rows:
    """own, random: nats that offsets in the chosen and in random heads add to log p; random directions a fifth
    of what random heads add; the lead gains half of it. All grow with the strength."""
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, n_groups)
    clean = -4 + rng.normal(0, 0.5, n)
    added = {PLAIN: 0.0, SCALED: own / 2, OURS: own, SECOND: own, MEANS: 0.1}
    assert {*added} == {PLAIN, *EDITS}
    values = {f"log p|{name}": clean + gain + rng.normal(0, 0.1, n) * (name != PLAIN) for name, gain in added.items()}
    strengths = np.array(OPTIONS.strengths)
    values[f"log p|{OURS}"] = clean[:, None] + own * strengths + rng.normal(0, 0.1, (n, len(strengths)))
    for name, gain in {HEADS: random, DIRECTION: random / 5}.items():
        drawn = rng.normal(0, 0.1, (n, len(strengths), DRAWS))
        values[f"log p|{name}"] = clean[:, None, None] + gain * strengths[:, None] + drawn
    of = {name.split("|")[1]: value for name, value in values.items()}
    lead = {f"lead|{name}": value / 2 if wrong else np.full_like(value, np.nan) for name, value in of.items()}
    right = {f"top-1|{name}": (value > -3).astype(float) for name, value in of.items()}
    moved = rng.uniform(0, 0.1, (n, LAYERS, PER_LAYER)) + _map(PLACES)
    return Rows(examples, values | lead | right | {"moved": moved})


def learned(*, loss: float = 0.01, neutral: bool = True, alike: bool = True) -> dict[str, Any]:
    """loss: what offsets in the chosen heads add to neutral text; alike: whether both seeds choose the same heads."""
    rng = np.random.default_rng(1)
    plain = 3 + rng.normal(0, 0.2, 16)
    added = {PLAIN: 0.0, **dict.fromkeys(EDITS, 0.1), OURS: loss, HEADS: 0.1, DIRECTION: 0.1}
    losses = {name: (plain + gain + rng.normal(0, 0.01, 16) * (name != PLAIN)).tolist() for name, gain in added.items()}
    second = PLACES if alike else ELSEWHERE
    strengths = [(rng.uniform(0, 0.3, (LAYERS, PER_LAYER)) + _map(places)).tolist() for places in (PLACES, second)]
    return {
        "strengths": strengths,
        "offsets": [(OURS, PLACES, []), (SECOND, second, [])],
        "examples": 64,
        "documents": [f"d{i}" for i in range(16)] if neutral else [],
        "losses": losses if neutral else {},
        "selected_on": [f"s{i}" for i in range(8)],
    }


def _map(places: list[tuple[int, int]]) -> np.ndarray:
    found = np.zeros((LAYERS, PER_LAYER))
    found[tuple(np.array(places).T)] = 1.0
    return found


def tables_of(loss: float = 0.01, neutral: bool = True, alike: bool = True, **planted: Any) -> dict[str, pd.DataFrame]:
    told = learned(loss=loss, neutral=neutral, alike=alike)
    return tables_from(lofit, rows(**planted), OPTIONS, **told)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == SEEDS and not holds:
        return avoided()
    return tables_of(**({} if holds else FAILING[name]))


def avoided() -> dict[str, pd.DataFrame]:
    """Two seeds that share fewer heads than any sets with as many in every layer: half of all, and no head twice."""
    half = [(layer, head) for layer in range(LAYERS) for head in range(PER_LAYER // 2)]
    other = [(layer, head + PER_LAYER // 2) for layer, head in half]
    told = learned()
    told["strengths"] = [_map(places).tolist() for places in (half, other)]
    told["offsets"] = [(OURS, half, []), (SECOND, other, [])]
    return tables_from(lofit, rows(), OPTIONS, **told)
