"""Tables of crop and ask: answers about each picture, what a crop adds, by size of the object, what a crop holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.frames import joined, summarise
from ..common.thumbnails import ASKED, first_of_groups, picture_table, unmapped
from ._crop_asking import BESIDE, MEASURES, SHOWN, UNITS
from ._crop_boxes import CENTRE, CROPS, RANDOM, RANDOM_CARVED
from ._crop_reading import CONTROL_OF, RIGHT, TWICE, WHOLE, answered, classes, cropped
from ._crop_tested import tested_rows

CONTROLS = (TWICE, CENTRE, RANDOM, RANDOM_CARVED)
SIZES = ("below .5 % of the picture", ".5 to 5 %", "5 % and more")
PICTURES = 4


def _asked(rows: Rows) -> Iterator[tuple[str, str, np.ndarray]]:
    """(picture, how the crop is shown, measures [n, MEASURES]) of all that was asked; the whole picture first."""
    yield WHOLE, "", rows["whole"]
    yield TWICE, BESIDE, rows["twice"]
    for column, crop in enumerate(CROPS):
        for place, way in enumerate(SHOWN):
            yield crop, way, rows["crops"][:, column, place]


def _answers(rows: Rows, how: How) -> pd.DataFrame:
    """Every measure of the answer about each picture."""
    rows = cropped(rows, how)
    groups = rows.examples["group"]
    frames = []
    for crop, way, values in _asked(rows):
        for column, (measure, unit) in enumerate(zip(MEASURES, UNITS, strict=True)):
            names: dict[str, Any] = {"crop": crop, "shown": way, "measure": measure}
            frames.append(summarise(values[:, column], groups, {}, unit, **names))
    return _there(frames)


def _gains(rows: Rows, how: How) -> pd.DataFrame:
    """The same less the whole picture's, and less the random crops' of the same size, example by example."""
    rows = cropped(rows, how)
    return _there([frame for crop, way, _ in _asked(rows) for frame in _gained(rows, crop, way)])


def _gained(rows: Rows, crop: str, way: str) -> list[pd.DataFrame]:
    if crop == WHOLE:
        return []
    own, groups, frames = answered(rows, crop, way), rows.examples["group"], []
    for than in (WHOLE, CONTROL_OF.get(crop, "")):
        if than:
            for column, (measure, unit) in enumerate(zip(MEASURES, UNITS, strict=True)):
                names: dict[str, Any] = {"crop": crop, "shown": way, "measure": measure, "than": than}
                difference = (own - answered(rows, than, way))[:, column]
                frames.append(summarise(difference, groups, {}, unit, **names))
    return frames


def _sizes(rows: Rows, how: How) -> pd.DataFrame | None:
    """Answers and gains over the whole picture by the asked object's share of the picture; None without boxes."""
    rows = cropped(rows, how)
    frames = []
    for name, some in zip(SIZES, classes(rows), strict=True):
        part = rows.where(some)
        if part.examples.empty:
            continue
        for crop, way, values in _asked(part):
            told: dict[str, Any] = {"crop": crop, "shown": way, "size": name, "unit": "share of answers"}
            groups = part.examples["group"]
            frames.append(summarise(values[:, RIGHT], groups, {}, measure="right", **told))
            if crop != WHOLE:
                gain = values[:, RIGHT] - part["whole"][:, RIGHT]
                frames.append(summarise(gain, groups, {}, measure="gain over the whole picture", **told))
    return _there(frames) if frames else None


def _crops(rows: Rows, how: How) -> pd.DataFrame:
    """The share of the asked object that lies in each crop, and the share of the picture that the crop is."""
    rows = cropped(rows, how)
    frames = []
    for name, measure in (("covered", "of the object in the crop"), ("taken", "of the picture in the crop")):
        for column, crop in enumerate(CROPS):
            values = rows[name][:, column]
            frames.append(summarise(values, rows.examples["group"], {}, "share", crop=crop, measure=measure))
    return _there(frames)


def _there(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows that something was measured for; control: the crop's name where it is one of others."""
    whole = joined(frames)
    return whole.assign(control=whole["crop"].where(whole["crop"].isin(CONTROLS), ""))


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
    "tested": (tested_rows, ("claim", "than", "untestable")),
}
RUN_TABLES = {
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "on_pictures": (_on_pictures, ("example", "row", "column", "inside")),
    "unmapped": (_unmapped, ("why",)),
}
