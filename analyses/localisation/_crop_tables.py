"""Tables of crop and ask: answers about each picture, what a crop adds, by size of the object, what a crop holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from ..common.findings import minus
from ..common.frames import summarise
from ..common.selection import measured_rows
from ..common.tested import nothing, number
from ..common.thumbnails import ASKED, first_of_groups, picture_table, unmapped
from ._crop_asking import ALONE, BESIDE, MEASURES, SHOWN, UNITS
from ._crop_boxes import ATTENDED, CARVED, CENTRE, CROPS, OBJECT, RANDOM, RANDOM_CARVED

WHOLE, TWICE = "the whole picture", "the whole picture twice"
CONTROL_OF = {ATTENDED: RANDOM, CARVED: RANDOM_CARVED, CENTRE: RANDOM, OBJECT: RANDOM}
CONTROLS = (CENTRE, RANDOM, RANDOM_CARVED)
SMALL, LARGE = 0.005, 0.05  # of the picture: the classes of arXiv 2502.17422
SIZES = ("below .5 % of the picture", ".5 to 5 %", "5 % and more")
RIGHT = MEASURES.index("right")
PICTURES = 4


def _cropped(rows: Rows, how: How) -> Rows:
    """The examples whose picture is larger than its crop, of groups that no layer was chosen on."""
    left = measured_rows(rows, how.learned.selected_on, "crop_and_ask")
    left = left.where(left["cropped"] > 0)
    if left.examples.empty:
        raise NothingToMeasure(
            "crop_and_ask: no example has one picture of known geometry that is larger than what the model sees at "
            "once (the crop would be the whole): give larger pictures, such as --task scenes:size=336"
        )
    return left


def _asked(rows: Rows) -> Iterator[tuple[str, str, np.ndarray]]:
    """(picture, how the crop is shown, measures [n, MEASURES]) of all that was asked; the whole picture first."""
    yield WHOLE, "", rows["whole"]
    yield TWICE, BESIDE, rows["twice"]
    for column, crop in enumerate(CROPS):
        for place, way in enumerate(SHOWN):
            yield crop, way, rows["crops"][:, column, place]


def _answers(rows: Rows, how: How) -> pd.DataFrame:
    """Every measure of the answer about each picture."""
    rows = _cropped(rows, how)
    groups = rows.examples["group"]
    frames = []
    for crop, way, values in _asked(rows):
        for column, (measure, unit) in enumerate(zip(MEASURES, UNITS, strict=True)):
            names = {"crop": crop, "shown": way, "measure": measure}
            frames.append(summarise(values[:, column], groups, {}, unit, **names))
    return _there(frames)


def _gains(rows: Rows, how: How) -> pd.DataFrame:
    """The same less the whole picture's, and less the random crops' of the same size, example by example."""
    rows = _cropped(rows, how)
    return _there([frame for crop, way, _ in _asked(rows) for frame in _gained(rows, crop, way)])


def _gained(rows: Rows, crop: str, way: str) -> list[pd.DataFrame]:
    if crop == WHOLE:
        return []
    own, groups, frames = _values(rows, crop, way), rows.examples["group"], []
    for than in (WHOLE, CONTROL_OF.get(crop, "")):
        if than:
            for column, (measure, unit) in enumerate(zip(MEASURES, UNITS, strict=True)):
                names: dict[str, Any] = {"crop": crop, "shown": way, "measure": measure, "than": than}
                difference = (own - _values(rows, than, way))[:, column]
                frames.append(summarise(difference, groups, {}, unit, **names))
    return frames


def _values(rows: Rows, crop: str, way: str) -> np.ndarray:
    """MEASURES of the answers about one picture, [n, MEASURES]."""
    if crop in (WHOLE, TWICE):
        return rows["whole" if crop == WHOLE else "twice"]
    return rows["crops"][:, CROPS.index(crop), SHOWN.index(way)]


def _sizes(rows: Rows, how: How) -> pd.DataFrame | None:
    """Answers and gains over the whole picture by the asked object's share of the picture; None without boxes."""
    rows = _cropped(rows, how)
    frames = []
    for name, some in zip(SIZES, _classes(rows), strict=True):
        part = rows.where(some)
        if part.examples.empty:
            continue
        for crop, way, values in _asked(part):
            told = {"crop": crop, "shown": way, "size": name, "unit": "share of answers"}
            groups = part.examples["group"]
            frames.append(summarise(values[:, RIGHT], groups, {}, measure="right", **told))
            if crop != WHOLE:
                gain = values[:, RIGHT] - part["whole"][:, RIGHT]
                frames.append(summarise(gain, groups, {}, measure="gain over the whole picture", **told))
    return _there(frames) if frames else None


def _classes(rows: Rows) -> list[np.ndarray]:
    """The examples of each class of SIZES, Bool[n]; those without a box are in none."""
    area = rows["area"]
    return [area < SMALL, (area >= SMALL) & (area < LARGE), area >= LARGE]


def _crops(rows: Rows, how: How) -> pd.DataFrame:
    """The share of the asked object that lies in each crop, and the share of the picture that the crop is."""
    rows = _cropped(rows, how)
    frames = []
    for name, measure in (("covered", "of the object in the crop"), ("taken", "of the picture in the crop")):
        for column, crop in enumerate(CROPS):
            values = rows[name][:, column]
            frames.append(summarise(values, rows.examples["group"], {}, "share", crop=crop, measure=measure))
    return _there(frames)


def _there(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """What was measured; control: the name of a crop that is one, so that figures draw it so."""
    whole = pd.concat(frames, ignore_index=True)
    return whole[whole["n"] > 0].reset_index(drop=True)


# ---------------------------------------------------------------- claims


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    rows = _cropped(rows, how)
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
    own = _values(rows, crop, way)[:, RIGHT]
    others = {"": WHOLE, CONTROL_OF[crop]: CONTROL_OF[crop]} | ({TWICE: TWICE} if way == BESIDE else {})
    return {than: own - _values(rows, other, way)[:, RIGHT] for than, other in others.items()}


def _helps(rows: Rows, claim: str, crop: str, way: str) -> list[pd.DataFrame]:
    groups = rows.examples["group"]
    return [number(claim, values, groups, "share of answers", than=n) for n, values in _beside(rows, crop, way).items()]


def _smaller(rows: Rows, way: str) -> list[pd.DataFrame]:
    claim, (small, _, large) = "more for small objects", _classes(rows)
    if not (small.any() and large.any()):
        lacking = "below .5 %" if not small.any() else "of 5 % and more"
        return [nothing(claim, f"there are no objects {lacking} of the picture")]
    groups, frames = rows.examples["group"], []
    for than, values in _beside(rows, ATTENDED, way).items():
        both = [number(claim, values[some], groups[some], "share of answers", than=than) for some in (small, large)]
        apart = minus(both[0].iloc[0], both[1].iloc[0])
        frames.append(both[0].assign(**apart))
    return frames


# ---------------------------------------------------------------- pictures


def _first(rows: Rows) -> tuple[Rows, np.ndarray] | None:
    known = rows.where(rows["cropped"] > 0)
    return None if known.examples.empty else (known, first_of_groups(known, PICTURES))


def _pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    found = _first(rows)
    return None if found is None else picture_table(*found)


def _on_pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    """Relative attention over the first pictures; inside: the middle of the cell lies in the attention crop."""
    found = _first(rows)
    if found is None:
        return None
    known, frames = found[0], []
    for i in found[1]:
        height, width = known["grid"][i].astype(int)
        row, column = (axis.ravel() for axis in np.indices((height, width)))
        left, top, right, bottom = known["box"][i]
        x, y = (column + 0.5) * known["size"][i, 0] / width, (row + 0.5) * known["size"][i, 1] / height
        inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
        cells = {"example": known.examples["id"].to_numpy()[i], "row": row, "column": column, "inside": inside}
        frames.append(pd.DataFrame({**cells, "value": known["map"][i][: len(row)]}))
    return pd.concat(frames, ignore_index=True).assign(n=1, unit="of the largest")


def _unmapped(rows: Rows, how: How) -> pd.DataFrame | None:
    return unmapped(rows)


TABLES = {
    "answers": (_answers, ("crop", "shown", "measure")),
    "gains": (_gains, ("crop", "shown", "measure", "than")),
    "sizes": (_sizes, ("crop", "shown", "size", "measure")),
    "crops": (_crops, ("crop", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
RUN_TABLES = {
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "on_pictures": (_on_pictures, ("example", "row", "column", "inside")),
    "unmapped": (_unmapped, ("why",)),
}
