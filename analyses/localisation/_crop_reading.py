"""Rows of crop and ask as its tables and its claims read them: which are cropped, what is answered, how large it is."""

from __future__ import annotations

import numpy as np

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from ..common.selection import measured_rows
from ._crop_asking import MEASURES, SHOWN
from ._crop_boxes import ATTENDED, CARVED, CENTRE, CROPS, OBJECT, RANDOM, RANDOM_CARVED

WHOLE, TWICE = "the whole picture", "the whole picture twice"
CONTROL_OF = {ATTENDED: RANDOM, CARVED: RANDOM_CARVED, CENTRE: RANDOM, OBJECT: RANDOM}
SMALL, LARGE = 0.005, 0.05  # of the picture: the classes of arXiv 2502.17422
RIGHT = MEASURES.index("right")


def cropped(rows: Rows, how: How) -> Rows:
    """The examples whose picture is larger than its crop, of groups that no layer was chosen on."""
    left = measured_rows(rows, how.learned.selected_on, "crop_and_ask")
    left = left.where(left["cropped"] > 0)
    if left.examples.empty:
        raise NothingToMeasure(
            "crop_and_ask: no example has one picture of known geometry that is larger than what the model sees at "
            "once (the crop would be the whole): give larger pictures, such as --task scenes:size=336"
        )
    return left


def answered(rows: Rows, crop: str, way: str) -> np.ndarray:
    """MEASURES of the answers about one picture, [n, MEASURES]."""
    if crop in (WHOLE, TWICE):
        return rows["whole" if crop == WHOLE else "twice"]
    return rows["crops"][:, CROPS.index(crop), SHOWN.index(way)]


def classes(rows: Rows) -> list[np.ndarray]:
    """The examples of each class of SIZES, Bool[n]; those without a box are in none."""
    area = rows["area"]
    return [area < SMALL, (area >= SMALL) & (area < LARGE), area >= LARGE]
