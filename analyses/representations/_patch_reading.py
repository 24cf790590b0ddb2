"""What single patches tell: whether a thing lies there, its colour and its shape, beside what place alone tells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...probes.runs.results import Rows
from ..common.controls import PERMUTED_LABELS, RANDOM_WEIGHTS, permuted_labels
from ._once import once
from ._patches import WORDS
from ._probed import FIRST
from ._probes import folds_of, read, weights
from ._probing_rows import PATCHES, RANDOM
from ._targets import Target, checked

PLACE = "row and column of the patch alone"
INSIDE, OF_THING = "a thing lies there", "{} of the thing there"
ROW, COLUMN, IN_BOX, FIRST_WORD = 0, 1, 2, 3  # of "patch|told"


class OnPatches(NamedTuple):
    """As `_probed.Probed`, of patches: added [patches, states], weight [patches] by control; groups [patches]."""

    target: str
    stack: str
    added: dict[str, np.ndarray]
    weight: dict[str, np.ndarray]
    groups: np.ndarray


@once
def on_patches(rows: Rows, options: Any) -> list[OnPatches]:
    """Each stack with each target that stands in groups enough."""
    return [one for name in PATCHES if name in rows.values for one in _of_stack(rows, name, options)]


def _of_stack(rows: Rows, name: str, options: Any) -> list[OnPatches]:
    told, states = rows["patch|told"], rows[name].swapaxes(1, 2)  # [n, patch, …]
    there = ~np.isnan(told[..., ROW]) & ~np.isnan(states).any((2, 3))
    groups = np.broadcast_to(rows.examples["group"].to_numpy()[:, None], there.shape)[there]
    labels = _labels(told[there], groups, options.folds)
    if not labels:
        return []
    permuted = {target: _permuted(own, groups, options.draws) for target, own in labels.items()}
    folds = folds_of(labels.get(OF_THING.format("colour"), next(iter(labels.values()))), groups, options.folds)
    several = [one for target, own in labels.items() for one in (own, *permuted[target])]
    found = read(states[there], several, folds, options).reshape(len(labels), -1, there.sum(), states.shape[2])
    beside = {PLACE: read(_places(told[there])[:, None], [*labels.values()], folds, options)}
    twin = rows.values.get(f"{RANDOM}{name}")
    beside |= (
        {} if twin is None else {RANDOM_WEIGHTS: read(twin.swapaxes(1, 2)[there], [*labels.values()], folds, options)}
    )
    return [
        _with_controls(
            target,
            PATCHES[name],
            found[i],
            {control: one[i] for control, one in beside.items()},
            labels[target],
            permuted[target],
            groups,
        )
        for i, target in enumerate(labels)
    ]


def _with_controls(
    target: str,
    stack: str,
    found: np.ndarray,
    beside: dict[str, np.ndarray],
    labels: np.ndarray,
    permuted: list[np.ndarray],
    groups: np.ndarray,
) -> OnPatches:
    count = found.shape[2]
    added = {"": found[0], PERMUTED_LABELS: found[1:].mean(0), FIRST: np.repeat(found[0][:, :1], count, 1)}
    added |= {name: np.broadcast_to(values, found[0].shape) for name, values in beside.items()}
    weight = dict.fromkeys(added, weights(labels)) | {PERMUTED_LABELS: np.mean([*map(weights, permuted)], 0)}
    return OnPatches(target, stack, added, weight, groups)


def _labels(told: np.ndarray, groups: np.ndarray, folds: int) -> dict[str, np.ndarray]:
    """By target the class of every patch, "" for one without, of the targets that can be read."""
    made = {INSIDE: np.where(told[:, IN_BOX] == 1, "yes", "no")}
    for at, (what, words) in enumerate(WORDS.items()):
        codes = told[:, FIRST_WORD + at]
        made[OF_THING.format(what)] = np.where(np.isnan(codes), "", np.array(words)[np.nan_to_num(codes).astype(int)])
    several = {name: checked(Target(labels), groups, folds) for name, labels in made.items()}
    return {name: target.labels for name, target in several.items() if not target.left_out}


def _permuted(labels: np.ndarray, groups: np.ndarray, draws: int) -> list[np.ndarray]:
    there, made = labels != "", []
    for draw in range(draws):
        made.append(labels.copy())
        made[-1][there] = permuted_labels(labels[there], groups[there], draw)
    return made


def _places(told: np.ndarray) -> np.ndarray:
    """A feature for each row and each column of the maps, [patches, rows + columns]."""
    sides = [told[:, axis].astype(int)[:, None] == np.arange(int(told[:, axis].max()) + 1) for axis in (ROW, COLUMN)]
    return np.concatenate(sides, 1).astype(float)
