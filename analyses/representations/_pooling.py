"""Pooling of pictures by learned queries and by their mean: what each reads, and where the queries look."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from ..common.controls import PERMUTED_LABELS, permuted_labels
from ..common.frames import joined, mean_of_present, summarise
from ..common.tested import nothing, number
from ..common.thumbnails import first_of_groups, picture_table
from ._attentive import Variant, read_pooled
from ._once import once
from ._probes import folds_of, weighed, weights
from ._targets import PICTURE, checked, targets_of

ATTENTIVE, MEAN = "learned queries", "mean of the patches"
CLAIM = "learned queries"
UNIT, OVER = "balanced accuracy", "balanced accuracy, difference"
SHOWN = 4  # pictures


class Pooled(NamedTuple):
    """added, weight: as in `_probed.Probed`, [n] by pooling and control. looks: [n, query, patch] of the learned ones,
    in units of what each patch would get if all were alike.
    """

    target: str
    added: dict[tuple[str, str], np.ndarray]
    weight: dict[str, np.ndarray]
    looks: np.ndarray


@once
def pooled(rows: Rows, options: Any) -> list[Pooled]:
    """Each target of what pictures show that stands in groups enough."""
    if "whole" not in rows.values or not options.queries:
        return []
    there, groups = np.isfinite(rows["whole"]).any((1, 2)), rows.examples["group"].to_numpy()
    found = []
    for name, target in targets_of(rows, options.folds).items():
        if target.about == PICTURE and not target.left_out:
            mine = checked(target._replace(labels=np.where(there, target.labels, "")), groups, options.folds)
            found += [] if mine.left_out else [_of_target(rows, name, mine.labels, options)]
    return found


def _of_target(rows: Rows, name: str, labels: np.ndarray, options: Any) -> Pooled:
    chosen = labels != ""
    own, groups = labels[chosen], rows.examples["group"].to_numpy()[chosen]
    classes = np.unique(own)
    several = {"": [own], PERMUTED_LABELS: [permuted_labels(own, groups, draw) for draw in range(options.draws)]}
    asked = [(how, control, one) for how in (ATTENTIVE, MEAN) for control, some in several.items() for one in some]
    variants = [Variant(np.searchsorted(classes, one), how == ATTENTIVE) for how, _, one in asked]
    whole = torch.from_numpy(rows["whole"][chosen].astype(np.float32))
    found = read_pooled(whole, variants, folds_of(own, groups, options.folds), options.queries)
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for (how, control, one), said in zip(asked, found.said, strict=True):
        parts.setdefault((how, control), []).append(weighed(classes[said], one))
    looks = found.looks[0] * (~np.isnan(found.looks[0])).sum(-1, keepdims=True)
    weight = {control: _whole(np.mean([*map(weights, some)], 0), chosen) for control, some in several.items()}
    return Pooled(
        name, {key: _whole(np.mean(some, 0), chosen) for key, some in parts.items()}, weight, _whole(looks, chosen)
    )


def _whole(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    made = np.full((len(chosen), *values.shape[1:]), np.nan)
    made[chosen] = values
    return made


def pooling(rows: Rows, how: How) -> pd.DataFrame | None:
    """What each pooling reads."""
    groups, found = rows.examples["group"], pooled(rows, how.options)
    frames = [
        summarise(
            values, groups, {}, UNIT, denominators=one.weight[control], target=one.target, pooling=way, control=control
        )
        for one in found
        for (way, control), values in one.added.items()
    ]
    return joined(frames) if frames else None


def tested_pooling(rows: Rows, options: Any) -> list[pd.DataFrame]:
    """Learned queries minus the mean, over all that pictures show."""
    found, groups = pooled(rows, options), rows.examples["group"]
    if not found:
        return [nothing(CLAIM, "there are no pictures whose objects are told, or no queries")]
    gains = {
        control: mean_of_present(
            np.stack([one.added[ATTENTIVE, control] - one.added[MEAN, control] for one in found], 1)
        )
        for control in ("", PERMUTED_LABELS)
    }
    margin = gains[""] - gains[PERMUTED_LABELS]
    return [number(CLAIM, gains[""], groups, OVER), number(CLAIM, margin, groups, OVER, than=PERMUTED_LABELS)]


def pictures(rows: Rows, how: How) -> pd.DataFrame | None:
    """The pictures of `query_maps`."""
    chosen, _ = _shown(rows, how)
    return picture_table(rows, chosen) if len(chosen) else None


def query_maps(rows: Rows, how: How) -> pd.DataFrame | None:
    """Where each query of the first target looks on the first pictures."""
    chosen, found = _shown(rows, how)
    frames = []
    for i in chosen:
        cell, columns = rows["whole|cell"][i], int(rows["whole|grid"][i][1])
        at = ~np.isnan(cell)
        places = {"row": cell[at].astype(int) // columns, "column": cell[at].astype(int) % columns}
        for query, values in enumerate(found[0].looks[i], 1):
            told = {"example": rows.examples["id"].to_numpy()[i], "target": found[0].target, "query": query}
            frames.append(pd.DataFrame({**told, **places, "value": values[: len(at)][at]}))
    if not frames:
        return None
    return pd.concat(frames, ignore_index=True).assign(n=1, unit="× an even share")


def _shown(rows: Rows, how: How) -> tuple[np.ndarray, list[Pooled]]:
    """The first pictures of different groups that have a map, and what was pooled."""
    found = pooled(rows, how.options)
    if not found:
        return np.array([], int), found
    first = first_of_groups(rows, len(rows.examples))
    known = np.isfinite(found[0].looks[first]).any(axis=(1, 2)) & np.isfinite(rows["whole|cell"][first]).any(axis=1)
    return np.asarray(first)[known][:SHOWN], found
