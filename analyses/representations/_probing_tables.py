"""Tables of probing: what can be read from which state, over the control task, where best, and what was not asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from ..common.claims import unseen
from ..common.controls import CONTROL_TASK, PERMUTED_LABELS, permuted_labels
from ..common.frames import head_axes, joined, mean_of_present, middle, summarise
from ..common.stats import MIN_GROUPS, chosen_on
from ..common.tested import nothing, number
from ._probed import FREQUENT, Probed, probed
from ._probes import folds_of, read
from ._probing_rows import PLACES
from ._targets import ANSWER, targets_of
from ._targets import PICTURE as SHOWN

UNIT, OVER = "balanced accuracy", "balanced accuracy, difference"
READABLE = 0.1  # over the most frequent class, from which a target counts as readable
PICTURE, ANSWERED = "the picture in the middle layers", "the answer in the middle layers"


def _accuracy(rows: Rows, how: How) -> pd.DataFrame:
    """NothingToMeasure: no target can be read."""
    found = probed(rows, how.options)
    if not found:
        raise NothingToMeasure(f"probing: nothing to read from the states: {_why(rows, how)}")
    return joined(
        _over_states(rows, values, UNIT, one, about=one.about, control=control, denominators=one.weight[control])
        for one in found
        for control, values in one.added.items()
    )


def _why(rows: Rows, how: How) -> str:
    reasons = [f"{name}: {target.left_out}" for name, target in targets_of(rows, how.options.folds).items()]
    return "; ".join(reasons) or "the task gives its examples neither answers nor other labels"


def _selectivity(rows: Rows, how: How) -> pd.DataFrame | None:
    """Accuracy minus that of the control task."""
    found = [(one, one.added[""] - one.added[CONTROL_TASK]) for one in probed(rows, how.options)]
    return joined(_over_states(rows, values, OVER, one) for one, values in found) if found else None


def _over_states(rows: Rows, values: np.ndarray, unit: str, one: Probed, **told: Any) -> pd.DataFrame:
    axes = {"state": np.arange(values.shape[1])}
    return summarise(values, rows.examples["group"], axes, unit, target=one.target, place=PLACES[one.place], **told)


def _best(rows: Rows, how: How) -> pd.DataFrame | None:
    """Each target at the state that is best on one half of the groups, measured on the other."""
    frames, groups = [], rows.examples["group"].to_numpy()
    for one in probed(rows, how.options):
        state, other = _chosen(one.added[""], groups)
        for control, values in one.added.items():
            told: dict[str, Any] = {"target": one.target, "place": PLACES[one.place], "control": control}
            below = one.weight[control][other]
            found = summarise(values[other, state], groups[other], {}, UNIT, denominators=below, **told)
            frames.append(_bounded(found).assign(state=state))
    return joined(frames) if frames else None


def _bounded(row: pd.DataFrame) -> pd.DataFrame:
    """The interval within 0…1; where all is read rightly, or nothing is, the exact one of so many equal groups."""
    value, count = float(row["value"].iloc[0]), float(row["n_groups"].iloc[0])
    if value in (0.0, 1.0) and count >= MIN_GROUPS:
        row[["lower", "upper"]] = (0.0, unseen(count)) if value == 0 else (1 - unseen(count), 1.0)
    return row.assign(lower=row["lower"].clip(lower=0), upper=row["upper"].clip(upper=1))


def _chosen(added: np.ndarray, groups: np.ndarray) -> tuple[int, np.ndarray]:
    """The earliest of the best states, chosen on one half; the examples of the other."""
    state, other = chosen_on(added, groups, lambda half: np.nanmean(half, 0).argmax())
    return int(state), other


def _targets(rows: Rows, how: How) -> pd.DataFrame | None:
    """What could be asked: the share of its most frequent class, or why it is not read."""
    frames = []
    for name, target in targets_of(rows, how.options.folds).items():
        there = target.labels != ""
        most = max(target.classes, key=lambda label: (target.labels == label).sum(), default="")
        values = np.where(there, target.labels == most, np.nan)
        told: dict[str, Any] = {"target": name, "classes": len(target.classes), "left_out": target.left_out}
        frames.append(summarise(values, rows.examples["group"], {}, "share of the most frequent class", **told))
    return pd.concat(frames, ignore_index=True) if frames else None


def _heads(rows: Rows, how: How) -> pd.DataFrame | None:
    """What each head's output at the last position tells of a target, beside one draw of permuted labels."""
    if "z" not in rows.values:
        return None
    frames = []
    for name, target in targets_of(rows, how.options.folds).items():
        if not target.left_out:
            chosen = target.labels != ""
            frames += _of_heads(rows.where(chosen), name, target.labels[chosen], how.options)
    return joined(frames) if frames else None


def _of_heads(rows: Rows, name: str, labels: np.ndarray, options: Any) -> Iterable[pd.DataFrame]:
    z, groups = rows["z"], rows.examples["group"].to_numpy()
    flat = z.reshape(len(z), -1, z.shape[-1])
    known = ~np.isnan(flat).any((0, 2))  # layers without heads have none
    labelings = [labels, permuted_labels(labels, groups, 0)]
    read_there = read(flat[:, known], labelings, folds_of(labels, groups, options.folds), options)
    for control, values in zip(("", PERMUTED_LABELS), read_there, strict=True):
        whole = np.full(flat.shape[:2], np.nan)
        whole[:, known] = values
        cells = whole.reshape(z.shape[:3])
        told: dict[str, Any] = {"target": name, "control": control}
        yield summarise(cells, groups, head_axes(cells), UNIT, **told)


# ---------------------------------------------------------------- the numbers of the claims


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    found = probed(rows, how.options)
    return pd.concat([*_of_pictures(rows, found), *_of_answers(rows, found)], ignore_index=True)


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


TABLES = {
    "accuracy": (_accuracy, ("target", "place", "about")),
    "selectivity": (_selectivity, ("target", "place")),
    "best": (_best, ("target", "place")),
    "heads": (_heads, ("target",)),
    "targets": (_targets, ("target", "classes", "left_out")),
    "tested": (_tested, ("claim", "than", "untestable")),
}
