"""The numbers of probing's claims: what the middle layers hold of pictures, answers and patches, what queries add."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import CONTROL_TASK, PERMUTED_LABELS, RANDOM_WEIGHTS
from ..common.frames import mean_of_present, middle
from ..common.tested import nothing, number
from ._patch_reading import PLACE, OnPatches, on_patches
from ._pooling import OVER, tested_pooling
from ._probed import FREQUENT, Probed, probed
from ._probing_rows import DECODER
from ._targets import ANSWER
from ._targets import PICTURE as SHOWN

READABLE = 0.1  # over the most frequent class, or over place alone, from which a target counts as readable
PICTURE, ANSWERED = "the picture in the middle layers", "the answer in the middle layers"
ON_PATCHES = "what lies there"


def tested(rows: Rows, how: How) -> pd.DataFrame:
    """One row a number, and one for its margin over each control."""
    found, options = probed(rows, how.options), how.options
    parts = [*_of_pictures(rows, found), *_of_answers(rows, found)]
    parts += [*_of_patches(on_patches(rows, options)), *tested_pooling(rows, options)]
    return pd.concat(parts, ignore_index=True)


def _of_pictures(rows: Rows, found: list[Probed]) -> list[pd.DataFrame]:
    """Middle half of the states minus the first, over all that pictures show."""
    mine = [one for one in found if one.about == SHOWN and one.place == "image"]
    if not mine:
        return [nothing(PICTURE, "there are no image tokens of pictures whose objects are told")]
    own, permuted = (_mean(mine, control, _risen) for control in ("", PERMUTED_LABELS))
    return _compared(PICTURE, own, {PERMUTED_LABELS: own - permuted}, rows)


def _of_answers(rows: Rows, found: list[Probed]) -> list[pd.DataFrame]:
    """Middle half of the states minus the most frequent answer."""
    mine = [one for one in found if one.about == ANSWER and one.place == "last"]
    if not mine:
        return [nothing(ANSWERED, "no answers of 2 to 12 classes that stand in groups enough")]
    own, frequent = (_mean(mine, control, _middle) for control in ("", FREQUENT))
    margins = {control: own - _mean(mine, control, _middle) for control in (PERMUTED_LABELS, CONTROL_TASK)}
    return _compared(ANSWERED, own - frequent, margins, rows)


def _of_patches(found: list[OnPatches]) -> list[pd.DataFrame]:
    """Middle half of the decoder's states minus place alone, each target with the same weight."""
    mine = [one for one in found if one.stack == DECODER]
    if not mine:
        return [nothing(ON_PATCHES, "no boxes on pictures, in groups enough, tell what lies on a patch")]

    def mean(control: str) -> np.ndarray:
        return np.mean([_on_all(_middle(one.added[control]), one.weight[control]) for one in mine], 0)

    beside = [control for control in (PERMUTED_LABELS, RANDOM_WEIGHTS) if control in mine[0].added]
    margins = {control: mean("") - mean(control) for control in (PLACE, *beside)}
    over = [number(ON_PATCHES, values, mine[0].groups, OVER, than=control) for control, values in margins.items()]
    return [over[0].assign(than=""), *over[1:]]


def _on_all(added: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[patches]: their mean is the balanced accuracy of the patches that have a label."""
    there = ~np.isnan(added)
    return np.where(there, added, 0.0) * len(added) / np.nansum(np.where(there, weight, np.nan))


def _compared(claim: str, own: np.ndarray, margins: dict[str, np.ndarray], rows: Rows) -> list[pd.DataFrame]:
    groups = rows.examples["group"]
    beside = [number(claim, values, groups, OVER, than=control) for control, values in margins.items()]
    return [number(claim, own, groups, OVER), *beside]


def _mean(several: list[Probed], control: str, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """[n]: over the targets that an example has."""
    return mean_of_present(np.stack([of(one.added[control]) for one in several], 1))


def _middle(added: np.ndarray) -> np.ndarray:
    return added[:, middle(added.shape[1])].mean(1)


def _risen(added: np.ndarray) -> np.ndarray:
    return _middle(added) - added[:, 0]
