"""How well a run's own scores rank the edges of a circuit that it was given: the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ._edge_levels import NEVER, Graph, shuffled_levels

RANDOM = "random edges between the same layers"  # as many, into the same kind of reader


def areas_of(
    effects: Mapping[str, Sequence[Float[Tensor, "reader writer b"]]],
    groups: Sequence[str],
    known: Bool[Tensor, "reader writer"],
    graph: Graph,
    draws: int,
) -> list[dict[str, Any]]:
    """Rows of the table "auroc", as a record can keep them: by method the area of its |scores|, means over examples,
    for the known edges, and for random ones. None where the file says of all edges, or of none, that they are known.
    """
    mine = known & graph.possible
    if not mine.any() or torch.equal(mine, graph.possible):
        return []
    levels = torch.where(mine, 0, NEVER).to(torch.uint8)
    truths = [mine, *(shuffled_levels(levels, graph, draw) == 0 for draw in range(draws))]
    wanted = [truth[graph.possible] for truth in truths]
    return [row for name, parts in effects.items() for row in _rows(name, parts, groups, wanted, graph)]


def _rows(
    method: str, parts: Sequence[Tensor], groups: Sequence[str], truths: Sequence[Tensor], graph: Graph
) -> list[dict[str, Any]]:
    scores = torch.cat([part[graph.possible].T for part in parts]).double().numpy()

    def of(mean: np.ndarray) -> np.ndarray:
        own, *random = (metrics.edge_auroc(torch.from_numpy(mean)[None], truth[None]) for truth in truths)
        return np.array([own, np.mean(random)] if random else [own])

    found = stats.bootstrap_statistic(scores, groups, of)
    told = {"method": method, "n": len(scores), "n_groups": len(set(groups)), "unit": "area"}
    controls = ["", RANDOM][: len(found.value)]
    bounds = np.stack(found, 1).tolist()  # value, lower, upper
    return [
        told | {"control": control} | dict(zip(("value", "lower", "upper"), map(_plain, three), strict=True))
        for control, three in zip(controls, bounds, strict=True)
    ]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value


def auroc(rows: Rows, how: How) -> pd.DataFrame | None:
    """What `areas_of` found before anything was measured, where a circuit was given."""
    if not how.learned.auroc:
        return None
    return pd.DataFrame(list(how.learned.auroc)).astype(dict.fromkeys(("value", "lower", "upper"), float))
