"""Planted routes: sparse, away from the first token, through heads that matter and look one token back; or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.flow import routes
from crosslens.analyses.flow._route_rows import FIELDS
from crosslens.analyses.flow._route_walk import ADDED
from crosslens.probes.runs.results import Rows

from ...helpers import tiny
from ...helpers.makers import tables_from

LAYERS, HEADS, N = 8, 5, 40
CHOSEN, CHANCE = ((2, 1), (5, 3)), ((2, 0), (6, 2))  # heads on routes, and on the control's
FAILING: dict[str, dict[str, Any]] = {
    "few edges": {"edges": 0.4},
    "routes leave the sink": {"sink": 0.8},
    "previous-token heads": {"previous": 0.1},
    "routes find causal heads": {"effect": 1.0},
    "routes agree with knockout": {"knocked": False},
}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of(**({} if holds else FAILING[name]))


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(routes, rows(**planted))


def rows(
    *,
    edges: float = 0.05,
    sink: float = 0.1,
    attended: float = 0.6,
    previous: float = 0.5,
    effect: float = 10.0,
    chance: float = 1.0,
    twins: bool = True,
    knocked: bool = True,
    read_null: bool = False,
    cuts: bool = True,
    groups: int = N,
) -> Rows:
    """edges: share of the pairs that is kept, .3 by the control. sink, attended: the first token's share of importance
    and of attention. previous: attention of the heads on routes to the token before. effect: theirs, times that of
    others; chance: that of the control's heads. knocked: whether cutting
    costs where routes read; read_null: whether the control's read there too.
    """
    rng = np.random.default_rng(0)
    jitter = 1 + 0.05 * rng.random((N, LAYERS))
    values: dict[str, np.ndarray] = {}
    for suffix, kept, share in (("", CHOSEN, edges), ("|null", CHANCE, 0.3)):
        values[f"sums{suffix}"] = _sums(share, sink, attended) * (1 + 0.05 * rng.random((N, LAYERS, len(ADDED))))
        importance = 0.02 * (1 + 0.1 * rng.random((N, LAYERS, HEADS)))
        importance[:, [layer for layer, _ in kept], [head for _, head in kept]] += 0.5
        values[f"importance{suffix}"], values[f"on{suffix}"] = importance, (importance > 0.1).astype(float)
        values |= {f"flow|{role}{suffix}": 0.5 + 0.1 * rng.random((N, LAYERS + 1)) for role in ("last token", "image")}
    before = 0.05 * (1 + 0.1 * rng.random((N, LAYERS, HEADS)))
    before[:, [layer for layer, _ in CHOSEN], [head for _, head in CHOSEN]] = previous * jitter[:, :2]
    values["previous"] = before * values["sums"][..., :1]
    if twins:
        moved = 1 + 0.1 * rng.random((N, LAYERS, HEADS))
        for heads, times in ((CHOSEN, effect), (CHANCE, chance)):
            moved[:, [layer for layer, _ in heads], [head for _, head in heads]] *= times
        values["effect"] = moved * rng.choice([-1, 1], moved.shape)
    read = np.zeros((N, LAYERS))
    read[:, 5:] = 0.2 + 0.1 * rng.random((N, 3))
    noise = 0.01 * rng.random((2, N, LAYERS))
    values |= {"read|image": read, "read|image|null": read + noise[1] if read_null else 20 * noise[0]}
    if cuts:
        values["knocked|image"] = -(read if knocked else 0 * read) - noise[1]
    values |= {"tokens|last token": np.ones(N), "tokens|image": np.full(N, 3.0)}
    values["edges"] = np.stack([_edges()] * N)
    names = {"id": [f"e{i:02d}" for i in range(N)], "group": [f"g{i % groups}" for i in range(N)]}
    return Rows(pd.DataFrame(names | {"condition": "no BOS"}), values, tokenizer=tiny.tokenizer())


def _sums(edges: float, sink: float, attended: float) -> np.ndarray:
    own = {"rows": 2.0, "attention": 0.5, "between": 0.4, "from first": 0.4 * sink, "residual": 1.5, "MLP": 0.3}
    own |= {"past the MLP": 1.7, "held": 1.8, "edges": 20 * edges, "possible": 20.0}
    own |= {"attends first": 5 * attended, "attends between": 5.0}
    return np.array([own[name] for name in ADDED])


def _edges() -> np.ndarray:
    """Three edges of a route, and one place that is not filled."""
    found = np.full((4, len(FIELDS)), np.nan)
    one: dict[str, tuple[float, ...]] = {"layer": (7, 7, 6), "state": (7.5, 7, 6), "to_state": (8, 7.5, 7)}
    one |= {
        "source": (3, 1, 1),
        "target": (3, 3, 1),
        "kind": (1, 0, 2),
        "value": (0.6, 0.4, 1),
        "followed": (0.6, 0.4, 0.4),
    }
    one |= {"heads": (0, 2, 0), "head": (-1, 3, -1), "of head": (0, 0.3, 0)}
    one |= {"source id": (9, 7, 7), "target id": (9, 9, 7)}
    for at, name in enumerate(FIELDS):
        found[:3, at] = one[name]
    return found
