"""Planted rows of image_paths: heads are heard at the text or at the picture, which acts early or late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import image_paths
from crosslens.analyses.circuits._image_path_tables import LAST, PICTURE, PLACES, TEXT, THROUGH
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

N, GROUPS, LAYERS, HEADS = 60, 20, 6, 4


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == THROUGH:
        return tables_of(picture=0.2 if holds else 3.0)
    return tables_of(early=1 if holds else 4)


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(image_paths, rows(**planted))


def rows(*, picture: float = 0.2, early: int = 1, right: float = 0.95) -> Rows:
    """picture: what one head's path through the picture is worth, in logits; through the text 1. early: the layer that
    acts at the picture; layer 2 acts at the text, 3 at the last position. right: the share that is answered right.
    """
    rng = np.random.default_rng(0)
    examples, _ = task(rng, N, GROUPS)
    values = {f"path|{place}": rng.normal(0, 0.02, (N, LAYERS, HEADS)) for place in (PICTURE, TEXT)}
    for place, size in ((PICTURE, picture), (TEXT, 1.0)):
        values[f"path|{place}"][:, 2, 1] -= size
    values |= {f"layer|{place}": rng.normal(0, 0.02, (N, LAYERS)) for place in PLACES}
    for place, layer in ((PICTURE, early), (TEXT, 2), (LAST, 3)):
        values[f"layer|{place}"][:, layer] -= 2
    return Rows(examples, values | {"tokens": np.full(N, 0.6)} | solved(rng, N, right))
