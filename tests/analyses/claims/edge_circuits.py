"""Planted rows of circuits of edges: a twentieth of them does .95 of a task of 4 logits, random ones .1."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from crosslens.analyses.circuits import _edge_circuit_tables, edge_circuits
from crosslens.analyses.circuits._edge_levels import HELP, NEVER, RANKINGS, SHARES, SIZE, pack
from crosslens.analyses.common.agreement import FIVE, ONE
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

DRAWS = 2
METHODS = (ONE, FIVE, _edge_circuit_tables.ENDS)
OPTIONS = edge_circuits.Options(draws=DRAWS)
WRITERS = [["embed", -1, -1], ["head", 0, 0], ["head", 0, 1], ["mlp", 0, -1]]
READERS = [["q", 0, 0], ["q", 0, 1], ["mlp", 0, -1], ["final", 1, -1]]
AUROC = [
    {"method": method, "control": control, "value": value, "lower": value - 0.05, "upper": value + 0.05, "n": 16}
    | {"n_groups": 8, "unit": "area"}
    for method, own in zip(METHODS, (0.8, 0.9, 0.85), strict=True)
    for control, value in (("", own), (_edge_circuit_tables.EDGES, 0.6))
]


def packed() -> str:
    levels = torch.full((len(READERS), len(WRITERS)), NEVER, dtype=torch.uint8)
    levels[-1] = torch.tensor([0, 2, 5, 9], dtype=torch.uint8)
    return pack(levels)


LEARNED = {
    "levels": {f"{method}|{ranking}": packed() for method in METHODS for ranking in RANKINGS},
    "writers": WRITERS,
    "readers": READERS,
    "auroc": AUROC,
}


def rows(own: float = 0.95, one: float = 0.6, helpful: float = 1.6, random: float = 0.1, n: int = 60) -> Rows:
    """own, one: faithfulness at 5 % of the edges by five gradients and by one; helpful: of the most helpful ones."""
    rng = np.random.default_rng(0)
    examples, _ = task(rng, n, 20)
    values = solved(rng, n)
    shares = np.array(SHARES[:-1])

    def curve(at: float) -> np.ndarray:
        reached = np.interp(np.log10(shares), np.log10([0.001, 0.05, 1]), [0, at, 1 if at <= 1 else at])
        return values["clean"][:, None] * reached + rng.normal(0, 0.05, (n, len(shares)))

    for method in METHODS:
        values[f"curve|{method}|{SIZE}"] = curve(own if method == FIVE else one)
        values[f"curve|{method}|{HELP}"] = curve(helpful)
    for ranking in RANKINGS:
        values[f"random|{ranking}"] = np.stack([curve(random) for _ in range(DRAWS)], 1)
    return Rows(examples, values | {"none": np.zeros(n)})


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    fails = {"few edges": {"own": 0.5}, "five gradients": {"own": 0.6, "one": 0.95}, "helpful edges": {"helpful": 0.5}}
    return made(rows() if holds else rows(**fails[name]))


def made(planted_rows: Rows) -> dict[str, pd.DataFrame]:
    """Tables of planted rows."""
    return tables_from(edge_circuits, planted_rows, OPTIONS, **LEARNED)
