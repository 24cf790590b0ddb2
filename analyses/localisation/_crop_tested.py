"""The numbers that the claims of crop and ask are about, each with its margins over its controls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.findings import minus
from ..common.tested import nothing, number
from ._crop_asking import ALONE, BESIDE
from ._crop_boxes import ATTENDED, CARVED, CENTRE, CROPS, RANDOM
from ._crop_reading import CONTROL_OF, RIGHT, TWICE, WHOLE, answered, classes, cropped


def tested_rows(rows: Rows, how: How) -> pd.DataFrame:
    rows = cropped(rows, how)
    way = ALONE if how.learned.refused else BESIDE
    frames = [*_holds(rows), *_helps(rows, "cropping helps", ATTENDED, way), *_smaller(rows, way)]
    return pd.concat([*frames, *_helps(rows, "CARVE helps", CARVED, ALONE)], ignore_index=True)


def _holds(rows: Rows) -> list[pd.DataFrame]:
    """The share of the object in the attention crop less the crop's share of the picture."""
    claim, covered, groups = "the crop holds it", rows["covered"], rows.examples["group"]
    if np.isnan(covered).all():
        return [nothing(claim, "no example has exactly one box of what is asked for")]
    own, unit = covered[:, CROPS.index(ATTENDED)], "share of the object"
    margins = [number(claim, own - covered[:, CROPS.index(crop)], groups, unit, than=crop) for crop in (RANDOM, CENTRE)]
    return [number(claim, own - rows["taken"][:, CROPS.index(ATTENDED)], groups, unit), *margins]


def _beside(rows: Rows, crop: str, way: str) -> dict[str, np.ndarray]:
    """Right answers about a crop less those about other pictures, [n]: "" the whole one, else each control."""
    own = answered(rows, crop, way)[:, RIGHT]
    others = {"": WHOLE, CONTROL_OF[crop]: CONTROL_OF[crop]} | ({TWICE: TWICE} if way == BESIDE else {})
    return {than: own - answered(rows, other, way)[:, RIGHT] for than, other in others.items()}


def _helps(rows: Rows, claim: str, crop: str, way: str) -> list[pd.DataFrame]:
    groups = rows.examples["group"]
    return [number(claim, found, groups, "share of answers", than=n) for n, found in _beside(rows, crop, way).items()]


def _smaller(rows: Rows, way: str) -> list[pd.DataFrame]:
    claim, (small, _, large) = "more for small objects", classes(rows)
    if not (small.any() and large.any()):
        lacking = "below .5 %" if not small.any() else "of 5 % and more"
        return [nothing(claim, f"there are no objects {lacking} of the picture")]
    groups, frames = rows.examples["group"], []
    for than, found in _beside(rows, ATTENDED, way).items():
        both = [number(claim, found[some], groups[some], "share of answers", than=than) for some in (small, large)]
        apart = minus(both[0].iloc[0], both[1].iloc[0])
        frames.append(both[0].assign(**apart))
    return frames
