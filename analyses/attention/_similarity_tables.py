"""Tables of layer_similarity: cosines between layers and heads, rollout, reach, what replaced patterns cost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import RANDOM_ENTRIES, SHUFFLED_KEYS, UNIFORM
from ..common.frames import by_head, joined, summarise
from ._likeness import KINDS, SHARES, THRESHOLDS
from ._similarity_tested import FLOOR, of_layers, tested
from ._swapped import REMOVED, SWAPS


def _likeness(rows: Rows, how: How) -> pd.DataFrame:
    """Cosine of the mean maps of every two layers, what both share with uniform attention, and the difference."""
    frames = []
    layers = np.arange(rows["alike|attention"].shape[1])
    for kind in KINDS:
        alike, floor = rows[f"alike|{kind}"], rows[f"floor|{kind}"]
        for measure, values in ((kind, alike), (f"{kind}, over uniform", alike - floor)):
            axes: dict[str, Any] = {"layer": layers, "other": layers}
            frames.append(summarise(values, rows.examples["group"], axes, "cosine", measure=measure))
    return joined(frames)


def _neighbours(rows: Rows, how: How) -> pd.DataFrame:
    """Of each layer and the one before: cosine of the mean maps, and of each head with the most like one before."""
    frames = []
    for kind in KINDS:
        steps = {
            ("layers", ""): _before(rows[f"alike|{kind}"]),
            ("layers", FLOOR): _before(rows[f"floor|{kind}"]),
            ("heads", ""): rows[f"best|{kind}"],
            ("heads", SHUFFLED_KEYS): rows[f"best, shuffled|{kind}"],
        }
        for (of, control), values in steps.items():
            frames.append(by_head(rows, values, "cosine", of=of, measure=kind, control=control))
    return joined(frames)


def _before(pairs: np.ndarray) -> np.ndarray:
    """[n, layer]: with the layer before that has attention."""
    found = np.full(pairs.shape[:2], np.nan)
    layers = of_layers(pairs)
    for below, here in pairwise(layers):
        found[:, here] = pairs[:, here, below]
    return found


def _rollout(rows: Rows, how: How) -> pd.DataFrame:
    """What of the prompt is in the last position's state by attention alone, after each layer."""
    frames = []
    for control, name in (("", "rolled"), (UNIFORM, "rolled, uniform")):
        for at, share in enumerate(SHARES):
            frames.append(by_head(rows, rows[name][..., at], "share of the state", of=share, control=control))
    return joined(frames)


def _reach(rows: Rows, how: How) -> pd.DataFrame:
    """Share of the positions that the last one reaches within so many layers from the top, by threshold."""
    frames = []
    layers = of_layers(rows["alike|attention"])
    for control, name in (("", "reached"), (RANDOM_ENTRIES, "reached, random")):
        for at, threshold in enumerate(THRESHOLDS):
            values = rows[name][:, at][:, layers]
            axes: dict[str, Any] = {"layers": np.arange(1, values.shape[1] + 1)}
            told: dict[str, Any] = {"threshold": f"entries above {threshold}", "control": control}
            frames.append(summarise(values, rows.examples["group"], axes, "share of positions", **told))
    return joined(frames)


def _costs(rows: Rows, how: How) -> pd.DataFrame | None:
    """How much more the loss is with a layer's pattern replaced."""
    if "clean" not in rows.values:
        return None
    return joined([by_head(rows, rows[f"cost|{swap}"], "nats a token", instead=swap) for swap in SWAPS])


def _removed(rows: Rows, how: How) -> pd.DataFrame | None:
    """How much more the loss is with weak entries of all maps removed, or as many random ones."""
    if "clean" not in rows.values:
        return None
    axes: dict[str, Any] = {"removed": REMOVED}
    return summarise(rows["removed"], rows.examples["group"], axes, "nats a token")


TABLES = {
    "likeness": (_likeness, ("other", "measure")),
    "neighbours": (_neighbours, ("of", "measure")),
    "rollout": (_rollout, ("of",)),
    "reach": (_reach, ("layers", "threshold")),
    "costs": (_costs, ("instead",)),
    "removed": (_removed, ("removed",)),
    "tested": (tested, ("claim", "than", "untestable")),
}
