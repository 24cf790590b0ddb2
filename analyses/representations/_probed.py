"""Every target of a run read from every state, beside its controls: made once for all tables that ask."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...probes.runs.results import Rows
from ..common.controls import CONTROL_TASK, PERMUTED_LABELS, RANDOM_WEIGHTS, permuted_labels, random_labels
from ._once import once
from ._probes import folds_of, most_frequent, read, weights
from ._probing_rows import RANDOM, READ
from ._targets import PROMPT, Target, checked, targets_of, types_of

FREQUENT, FIRST = "the most frequent class", "the state before the first layer"


class Probed(NamedTuple):
    """What every example adds to a target's balanced accuracy, [n, states], by control ("": measured): their mean is
    the balanced accuracy, and so is Σ added / Σ weight ([n], mean 1), of some examples too. NaN for examples without
    the target, and in a control that cannot be had.
    """

    target: str
    about: str
    place: str
    added: dict[str, np.ndarray]
    weight: dict[str, np.ndarray]


@once
def probed(rows: Rows, options: Any) -> list[Probed]:
    """Each place with each of its targets that can be read."""
    groups, found = rows.examples["group"].to_numpy(), []
    targets = targets_of(rows, options.folds)
    for place in (place for place in READ if place in rows.values):
        there = ~np.isnan(rows[place]).any((1, 2))
        for name, target in targets.items():
            # Image tokens come before the prompt.
            if target.left_out or (place != "last" and target.about == PROMPT):
                continue
            mine = checked(target._replace(labels=np.where(there, target.labels, "")), groups, options.folds)
            if not mine.left_out:
                found.append(Probed(name, target.about, place, *_added(rows, place, mine, options)))
    return found


def _added(rows: Rows, place: str, target: Target, options: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The measured numbers and the controls' means over their draws, and their weights."""
    chosen = target.labels != ""
    part, labels = rows.where(chosen), target.labels[chosen]
    groups, words = part.examples["group"].to_numpy(), types_of(part, place, labels)
    permuted = [permuted_labels(labels, groups, draw) for draw in range(options.draws)]
    dealt = [] if words is None else [random_labels(words, target.classes, draw) for draw in range(options.draws)]
    folds = folds_of(labels, groups, options.folds)
    own, *others = read(part[place], [labels, *permuted, *dealt], folds, options)
    alike, count = weights(labels), own.shape[1]
    added = {
        "": own,
        PERMUTED_LABELS: np.mean(others[: len(permuted)], 0),
        CONTROL_TASK: np.mean(others[len(permuted) :], 0) if dealt else np.full_like(own, np.nan),
        FREQUENT: np.repeat(most_frequent(labels, folds)[:, None], count, 1),
        FIRST: np.repeat(own[:, :1], count, 1),
    }
    if f"{RANDOM}{place}" in part.values:
        added[RANDOM_WEIGHTS] = read(part[f"{RANDOM}{place}"], [labels], folds, options)[0]
    weight = dict.fromkeys(added, alike) | {PERMUTED_LABELS: np.mean([*map(weights, permuted)], 0)}
    weight |= {CONTROL_TASK: np.mean([*map(weights, dealt)], 0)} if dealt else {}
    return _spread(added, chosen), _spread(weight, chosen)


def _spread(several: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Of the chosen examples' numbers those of all, NaN for the others."""
    whole = {name: np.full((len(chosen), *values.shape[1:]), np.nan) for name, values in several.items()}
    for name, values in several.items():
        whole[name][chosen] = values
    return whole
