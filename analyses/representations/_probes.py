"""Linear probes: what held-out groups' labels are read from states, one probe a state, fold and labelling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STEPS = 1000  # of the solver
Folds = list[tuple[np.ndarray, np.ndarray]]


def folds_of(labels: np.ndarray, groups: np.ndarray, count: int) -> Folds:
    """(train, test) indices: whole groups, classes as evenly as these allow."""
    made = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    return [*made.split(np.zeros(len(labels)), labels, groups)]


def read(states: np.ndarray, labelings: Sequence[np.ndarray], folds: Folds, options: Any) -> np.ndarray:
    """What every example adds to the balanced accuracy of each labelling, [labelings, n, states].

    states: [n, states, d]; labelings: [n] each. Scaling and components are those of the training folds, and serve all
    labellings.
    """
    added = np.empty((len(labelings), *states.shape[:2]))
    for state in range(states.shape[1]):
        said = [np.empty_like(labels) for labels in labelings]
        for train, test in folds:
            x, held_out = _reduced(states[train, state], states[test, state], options.components)
            for one, labels in zip(said, labelings, strict=True):
                one[test] = _probe(labels[train], options.c).fit(x, labels[train]).predict(held_out)
        added[:, :, state] = [weighed(one, labels) for one, labels in zip(said, labelings, strict=True)]
    return added


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
    """n / (classes × n of its class), [n]: every class weighs the same, and the mean is 1."""
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(classes) * counts[codes])


def _reduced(train: np.ndarray, test: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised, on their principal components, in units in which a training example's mean square is 1."""
    many = min(components, *train.shape)
    reduce = make_pipeline(StandardScaler(), PCA(many, svd_solver="full"))
    with np.errstate(divide="ignore", invalid="ignore"):  # states that are all alike: no variance to share out
        x = reduce.fit_transform(train)
    scale = np.sqrt(np.square(x).mean()) or 1.0
    return x / scale, reduce.transform(test) / scale


def _probe(labels: np.ndarray, c: float) -> Any:
    if len({*labels.tolist()}) < 2:  # permuted labels can leave one class alone
        return DummyClassifier()
    return _Quiet(C=c, max_iter=STEPS, tol=1e-2)


class _Quiet(LogisticRegression):
    """A probe that stops at STEPS is a probe nonetheless."""

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().fit(*args, **kwargs)
