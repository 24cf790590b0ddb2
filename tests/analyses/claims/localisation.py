"""Planted rows of localisation: maps that find the box, or that a control equals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from crosslens.analyses.common.controls import BOX, HEADS, QUESTION
from crosslens.analyses.localisation import localisation
from crosslens.analyses.localisation._attention_maps import (
    ALL,
    ATTENTION,
    CHOSEN,
    CONTRAST,
    GAZE,
    GRADIENT,
    OCCLUSION,
    PURE,
    RELATIVE,
    TAG,
    TAG_LESS,
    WHOLE,
)
from crosslens.analyses.localisation._masks import MARKS
from crosslens.analyses.localisation._rows import CHANGED, GENERAL, LARGEST, LEFT, MIXED, SHOWN, WORDS
from crosslens.analyses.localisation._scoring import CENTRE, GAUSSIAN, SCORES
from crosslens.analyses.localisation._state_maps import LENS, MAGNITUDE, PHASE, RAW, TAM
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, HEADS_EACH, CELLS = 40, 20, 4, 4, 4
CHANCE = np.array([1.0, 0.25, 0.25, 0.15, 0.5])
FOUND = np.array([2.5, 0.7, 0.9, 0.7, 0.9])
LOST = np.array([0.4, 0.1, 0.05, 0.05, 0.2])
LEARNED = {"heads": [[1, 2]], "share": [0.8], "largest": [[0, 0]], "middles": [[0.5, 0.5]], "questions": ["What?"]}
OF_ALL = (BOX, CENTRE, GAUSSIAN)
MAPS = {ATTENTION: (*OF_ALL, QUESTION, GENERAL), RELATIVE: (*OF_ALL, QUESTION), CONTRAST: (*OF_ALL, QUESTION)}
MAPS |= {CHOSEN: (*OF_ALL, QUESTION, GENERAL, HEADS, ALL, LARGEST), MAGNITUDE: OF_ALL, PHASE: OF_ALL}
MAPS |= {GAZE: (*OF_ALL, QUESTION, GENERAL, MIXED, LEFT, CHANGED), TAG: (*OF_ALL, QUESTION, GENERAL)}
MAPS |= {GRADIENT: (*OF_ALL, QUESTION, GENERAL)} | dict.fromkeys((TAG_LESS, PURE, OCCLUSION), (*OF_ALL, QUESTION))
MAPS |= dict.fromkeys((LENS, TAM, RAW), (*OF_ALL, WORDS))
FINDS = dict.fromkeys((f"{method}|" for method in (ATTENTION, RELATIVE, CHOSEN, GAZE, TAG)), FOUND)
FINDS |= {f"{CONTRAST}|": FOUND + 0.05, f"{GRADIENT}|": FOUND + 0.05, f"{TAM}|": FOUND, f"{RAW}|": (FOUND + CHANCE) / 2}


def rows(finds: Mapping[str, np.ndarray] = FINDS, wrong: float = 0.5) -> Rows:
    """Rows in which these maps score so, all others as chance does; a share of the answers is wrong."""
    rng = np.random.default_rng(0)

    def scored(name: str, *shape: int) -> np.ndarray:
        return finds.get(name, CHANCE) + 0.03 * rng.normal(size=(N, *shape, len(SCORES)))

    values = {}
    for method, controls in MAPS.items():
        depth = 1 if method in WHOLE else LAYERS + (method in (LENS, TAM, RAW, MAGNITUDE, PHASE))
        values |= {f"{method}|{control}": scored(f"{method}|{control}", depth) for control in ("", *controls)}
    values |= {f"heads|{c}": scored(f"heads|{c}", LAYERS, HEADS_EACH) for c in ("", BOX, QUESTION)}
    values |= {
        f"mask {method}|{c}": 0.3 * rng.random((N, 1, len(MARKS))) for method in ("CARVE", TAG) for c in ("", BOX)
    }
    values |= {"scored": np.ones(N), "right": (np.arange(N) % 10 >= 10 * wrong).astype(float)}
    values |= {"box": np.tile([0.0, 0.0, 1.0, 1.0], (N, 1)), "maps": rng.random((N, len(SHOWN), CELLS))}
    values |= {"picture": np.zeros((N, 2, 2, 3), np.uint8), "grid": np.full((N, 2), 2), "unplaced": np.zeros(N)}
    return rows_of(values, groups=GROUPS)


def tables_of(finds: Mapping[str, np.ndarray] = FINDS, wrong: float = 0.5) -> dict[str, pd.DataFrame]:
    return tables_from(localisation, rows(finds, wrong), **LEARNED)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    if holds:
        return tables_of()
    failing = {f"{method}|": LOST for method in (ATTENTION, CONTRAST, CHOSEN, TAM, GAZE, TAG, GRADIENT)}
    return tables_of(FINDS | failing)
