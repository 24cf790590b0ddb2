"""Linear probes: what held-out groups' labels are read from states, one probe a state, fold and labelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import StratifiedGroupKFold

from ._logistic import fitted
from ._principal import components

AT_ONCE = 16  # states whose probes are fitted together
Folds = list[tuple[np.ndarray, np.ndarray]]


def folds_of(labels: np.ndarray, groups: np.ndarray, count: int) -> Folds:
    """(train, test) indices: whole groups, classes as evenly as these allow."""
    made = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    return [*made.split(np.zeros(len(labels)), labels, groups)]


def read(states: np.ndarray, labelings: Sequence[np.ndarray], folds: Folds, options: Any) -> np.ndarray:
    """What every example adds to the balanced accuracy of each labelling, [labelings, n, states].

    states: [n, states, d]; labelings: [n] each, "" for an example without a label, which no probe of that labelling
    reads: NaN. Scaling and components are those of the training folds, and serve all labellings.
    """
    names = [np.unique(labels[labels != ""]) for labels in labelings]
    asked = [
        np.where(labels == "", -1, np.searchsorted(own, labels)) for own, labels in zip(names, labelings, strict=True)
    ]
    codes = torch.from_numpy(np.stack(asked))
    right = np.empty((len(labelings), *states.shape[:2]))
    for first in range(0, states.shape[1], AT_ONCE):
        part = torch.from_numpy(np.ascontiguousarray(states[:, first : first + AT_ONCE].swapaxes(0, 1)))
        for train, test in folds:
            x, held_out = components(part[:, train], part[:, test], options.components)
            said = fitted(x, codes[:, train], options.c).said(held_out)
            right[:, test, first : first + AT_ONCE] = (said == codes[:, None, test]).movedim(1, 2).numpy()
    return np.stack([one * weights(labels)[:, None] for one, labels in zip(right, labelings, strict=True)])


def most_frequent(labels: np.ndarray, folds: Folds) -> np.ndarray:
    """The same of the training folds' most frequent class, [n]."""
    said = np.empty_like(labels)
    for train, test in folds:
        said[test] = DummyClassifier().fit(np.zeros((len(train), 1)), labels[train]).predict(np.zeros((len(test), 1)))
    return weighed(said, labels)


def weighed(said: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 where a label is read rightly, times its weight: the mean is the balanced accuracy."""
    return (said == labels) * weights(labels)


def weights(labels: np.ndarray) -> np.ndarray:
    """n / (classes × n of its class), [n]: every class weighs the same, and the mean is 1; NaN for "" (no label)."""
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    there = labels != ""
    with np.errstate(divide="ignore"):
        return np.where(there, there.sum() / ((classes != "").sum() * counts[codes]), np.nan)
