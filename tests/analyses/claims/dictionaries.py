"""Planted rows of dictionaries: one that tells states, has features of labels and steers; and worse ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.neurons import dictionaries
from crosslens.analyses.neurons._dictionary_features import MEANS, OWN, STEERED, STRENGTHS
from crosslens.analyses.neurons._dictionary_ways import WAYS

from ...helpers.makers import tables_from
from . import rows_of

N, FOLDS, FEATURES, TOP = 60, 12, 40, 3
LABELS = ("French", "German", "prose")
TOKENS = 50.0
UNITS = [[3 * i + k for k in range(TOP)] for i in range(len(LABELS))]
LEARNED: dict[str, Any] = {
    "dictionary": "tiny.dictionary.0",
    "site": "blocks.1.hook_resid_post",
    "active": 4,
    "count": FEATURES,
    "labels": LABELS,
    "features": UNITS,
    "twins": [[unit + 20 for unit in own] for own in UNITS],
    "neurons": UNITS,
}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        explains=0.3 if wrong == "more than components" else 0.8,
        recovers=0.5 if wrong == "loss recovered" else 0.95,
        own=0.1 if wrong == "features of one label" else 0.6,
        neurons=0.9 if wrong == "more specific than neurons" else 0.3,
        steers=-0.1 if wrong == "features steer" else 0.2,
    )


def tables_of(
    *,
    explains: float = 0.8,
    recovers: float = 0.95,
    own: float = 0.6,
    neurons: float = 0.3,
    steers: float = 0.2,
    others: float = 0.0,
    components: float = 0.5,
    labels: bool = True,
) -> dict[str, pd.DataFrame]:
    """explains, recovers: the dictionary's shares of variance and loss; components: those of its rivals. own: share of
    a label's tokens at which its features are active, neurons: its neurons. steers: change of the probability of its
    words; others: that of the controls. labels: whether the texts have any.
    """
    rng = np.random.default_rng(0)

    def around(mean: float, *shape: int) -> np.ndarray:
        return mean + 0.02 * rng.standard_normal((N, *shape))

    shares = np.stack([around(explains), around(0.1), around(min(components, 0.5))], 1)
    kept = np.stack([around(recovers), around(0.1), around(components), np.zeros(N)], 1)
    label = np.arange(N) % len(LABELS)
    values = {
        "total": np.full(N, 100.0),
        "left": 100 * (1 - shares),
        "tokens": np.full(N, TOKENS),
        "massive": np.zeros(N),
        "active": np.full(N, 4 * TOKENS),
        "clean|loss": np.full(N, 3.0),
        "replaced|loss": 3 + 2 * (1 - kept),
        "on|features": _on(label, own, around),
        "on|twins": _on(label, 0.1, around),
        "on|neurons": _on(label, neurons, around),
    }
    if labels:
        values |= _steered(label, steers, others, around)
    rows = rows_of(values, 30, label=np.array(LABELS)[label] if labels else "")
    fires = np.full((FOLDS, FEATURES), 20.0)
    fires[:, -2:] = 0
    folds = pd.DataFrame({"condition": "no BOS", "fold": range(FOLDS)})
    rows = replace(rows, folds=folds, sums={"fires": fires}, counts={"fires": np.full((FOLDS, 1), N / FOLDS)})
    known = LEARNED if labels else LEARNED | {name: [] for name in ("labels", "features", "twins", "neurons")}
    return tables_from(dictionaries, rows, **known)


def _on(label: np.ndarray, own: float, around: Any) -> np.ndarray:
    """Tokens at which each label's units are active: 5 % of other labels' texts."""
    share = np.where(label[:, None] == np.arange(len(LABELS)), own, 0.05)
    return TOKENS * np.clip(share[..., None] + around(0.0, len(LABELS), TOP), 0, 1)


def _steered(label: np.ndarray, steers: float, others: float, around: Any) -> dict[str, np.ndarray]:
    shape = len(STEERED), len(STRENGTHS)
    said = np.full((N, *shape), 0.1) + others + around(0.0, *shape)
    said[:, STEERED.index(OWN)] += steers - others
    said[:, STEERED.index(MEANS)] += 0.3 - others
    return {
        "target": (label + 1.0) % len(LABELS),
        "clean|said": np.full(N, 0.1),
        "replaced|said": np.full((N, len(WAYS)), 0.1) + around(0.0, len(WAYS)),
        "steered|said": said,
        "steered|loss": 3.5 + around(0.0, *shape),
    }
