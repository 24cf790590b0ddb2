"""Tables of probing: what can be read from which state, over the control task, where best, and what was not asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from ..common.controls import CONTROL_TASK, PERMUTED_LABELS, permuted_labels
from ..common.frames import head_axes, joined, summarise
from ..common.stats import chosen_on
from ..common.tested import exact
from ..common.thumbnails import ASKED
from ._patch_reading import on_patches
from ._pooling import OVER, UNIT, pictures, pooling, query_maps
from ._probed import Probed, probed
from ._probes import folds_of, read
from ._probing_rows import DECODER, READ, TOWER
from ._probing_tested import tested
from ._targets import targets_of


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


def _over_states(rows: Rows, values: np.ndarray, unit: str, one: Probed, **more: Any) -> pd.DataFrame:
    axes, told = {"state": np.arange(values.shape[1])}, {**_named(one), **more}
    return summarise(values, rows.examples["group"], axes, unit, **told)


def _named(one: Probed) -> dict[str, Any]:
    return {"target": one.target, "place": READ[one.place], "stack": TOWER if one.place == "tower" else DECODER}


def _best(rows: Rows, how: How) -> pd.DataFrame | None:
    """Each target at the state that is best on one half of the groups, measured on the other."""
    frames, groups = [], rows.examples["group"].to_numpy()
    for one in probed(rows, how.options):
        state, other = _chosen(one.added[""], groups)
        for control, values in one.added.items():
            told: dict[str, Any] = {**_named(one), "control": control}
            below = one.weight[control][other]
            found = summarise(values[other, state], groups[other], {}, UNIT, denominators=below, **told)
            frames.append(_bounded(found).assign(state=state))
    return joined(frames) if frames else None


def _bounded(row: pd.DataFrame) -> pd.DataFrame:
    """The interval within 0…1; where all is read rightly, or nothing is, the exact one."""
    value = float(row["value"].iloc[0])
    row = exact(row, value == 1) if value in (0.0, 1.0) else row
    return row.assign(lower=row["lower"].clip(lower=0), upper=row["upper"].clip(upper=1))


def _chosen(added: np.ndarray, groups: np.ndarray) -> tuple[int, np.ndarray]:
    """The earliest of the best states, chosen on one half; the examples of the other."""
    state, other = chosen_on(added, groups, lambda half: np.nanmean(half, 0).argmax())
    return int(state), other


def _patches(rows: Rows, how: How) -> pd.DataFrame | None:
    """What a single patch's state tells of what lies there; n counts patches."""
    frames = []
    for one in on_patches(rows, how.options):
        for control, values in one.added.items():
            told: dict[str, Any] = {"target": one.target, "stack": one.stack, "control": control}
            axes = {"state": np.arange(values.shape[1])}
            frames.append(summarise(values, one.groups, axes, UNIT, denominators=one.weight[control], **told))
    return joined(frames) if frames else None


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


TABLES = {
    "accuracy": (_accuracy, ("target", "place", "about", "stack")),
    "selectivity": (_selectivity, ("target", "place", "stack")),
    "best": (_best, ("target", "place", "stack")),
    "heads": (_heads, ("target",)),
    "patches": (_patches, ("target", "stack")),
    "pooling": (pooling, ("target", "pooling")),
    "targets": (_targets, ("target", "classes", "left_out")),
    "tested": (tested, ("claim", "than", "untestable")),
    "pictures": (pictures, ("example", *ASKED, "png")),
    "query_maps": (query_maps, ("example", "row", "column", "target", "query")),
}
