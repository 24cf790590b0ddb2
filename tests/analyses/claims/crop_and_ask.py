"""Planted rows of crop and ask: a crop that helps where it holds the object, or any crop, or a second picture alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.localisation import crop_and_ask
from crosslens.analyses.localisation._crop_asking import MEASURES, SHOWN
from crosslens.analyses.localisation._crop_boxes import ATTENDED, CARVED, CENTRE, CROPS, OBJECT, RANDOM, RANDOM_CARVED
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS = 96, 48
HELP = {ATTENDED: 0.95, CARVED: 0.95, OBJECT: 1.0}  # how often it makes a wrong answer right, where the object is small
HELD = {ATTENDED: 0.9, CARVED: 0.9, OBJECT: 1.0}
LEARNED = {"layer": 3, "start": 1, "scored": 8}


def rows(
    help: dict[str, float] = HELP, held: dict[str, float] = HELD, *, doubled: float = 0.0, small: bool = True
) -> Rows:
    """Half of the answers about the whole picture are wrong; crops mend this share of the wrong ones about small
    objects, and a tenth of it about large ones. doubled: what the whole picture twice mends.
    """
    rng = np.random.default_rng(0)
    is_small = np.arange(N) % GROUPS < (GROUPS / 2 if small else 0)
    whole = rng.random(N) < 0.5

    def answered(mended: float) -> np.ndarray:
        share = np.where(is_small, mended, mended / 10)
        right = whole | (rng.random(N) < share)
        return np.stack([right, right - 2.0, 4.0 * right - 2, np.full(N, 50.0)], -1)

    crops = np.stack([np.stack([answered(help.get(crop, 0.0)) for _ in SHOWN], 1) for crop in CROPS], 1)
    covered = np.stack([held.get(crop, 0.1) + 0.05 * rng.normal(size=N) for crop in CROPS], 1)
    values = {"whole": answered(0.0), "twice": answered(doubled), "crops": crops, "covered": covered}
    values |= {"taken": 0.1 + 0.01 * rng.random((N, len(CROPS))), "box": np.tile([0.0, 0.0, 8.0, 8.0], (N, 1))}
    values |= {"size": np.full((N, 2), 16.0), "area": np.where(is_small, 0.002, 0.08), "cropped": np.ones(N)}
    values |= {"map": rng.random((N, 4)), "picture": np.zeros((N, 2, 2, 3), np.uint8)}
    assert values["whole"].shape == (N, len(MEASURES))
    return rows_of(values | {"grid": np.full((N, 2), 2), "unplaced": np.zeros(N)}, groups=GROUPS)


ANY = dict.fromkeys((ATTENDED, CARVED, CENTRE, RANDOM, RANDOM_CARVED, OBJECT), 0.95)


def tables_of(*args: dict[str, float], refused: str = "", **kwargs: object) -> dict[str, pd.DataFrame]:
    return tables_from(crop_and_ask, rows(*args, **kwargs), **LEARNED, refused=refused)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """A crop helps and holds the object; or every crop harms, and holds nothing of it."""
    return tables_of() if holds else _harmed()


def _harmed() -> dict[str, pd.DataFrame]:
    made = rows({}, {ATTENDED: 0.0, CARVED: 0.0, RANDOM: 0.4, CENTRE: 0.4})
    small = made["area"] < 0.005
    for crop in (ATTENDED, CARVED):
        right = made["crops"][:, CROPS.index(crop), :, 0]
        right[small] = 0  # of the right ones about small objects none is left
    return tables_from(crop_and_ask, made, **LEARNED)
