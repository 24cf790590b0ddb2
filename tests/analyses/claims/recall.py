"""Planted rows of recall: an MLP that writes 1.5 and −0.7 times two movers and a vector that points to the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import recall
from crosslens.analyses.circuits._recall_rows import ANSWER, DRAWS, OTHER
from crosslens.analyses.circuits._recall_tables import DIRECT
from crosslens.analyses.circuits._recall_tested import ATTENTION, COPIED, LAST_HEADS, LAST_MLP, READ, REDIRECTED
from crosslens.analyses.common.controls import UNIFORM, WORDS
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from .circuits import solved, task

LAYERS, HEADS, WIDTH = 4, 6, 16
MOVERS = ((1, 0), (1, 4))
LEARNED: dict[str, Any] = {"heads": MOVERS, "mlp": 2}
FAILING: dict[str, dict[str, Any]] = {
    READ: {"looks": 0.02},
    COPIED: {"copies": 0.0},
    REDIRECTED: {"points": -3.0},
    LAST_MLP: {"doubt": -1.0},
    LAST_HEADS: {"doubt": -1.0},
}


def rows(
    n: int = 80,
    n_groups: int = 40,
    *,
    looks: float = 0.6,
    copies: float = 1.0,
    points: float = 3.0,
    doubt: float = 1.0,
    relations: int = 2,
) -> Rows:
    """looks: movers' attention on the subject; copies: how much of the movers the MLP writes; points: the length of b
    along the answer's direction; doubt: logits that the last layer's MLP takes from the answer, and its heads together.
    """
    rng = np.random.default_rng(0)
    examples, groups = task(rng, n, n_groups)
    kind = groups % relations
    examples["relation"] = [f"r{one}" for one in kind]
    towards = np.eye(WIDTH)[kind]
    movers = rng.normal(0, 1, (n, len(MOVERS), WIDTH))
    mlp = copies * (1.5 * movers[:, 0] - 0.7 * movers[:, 1]) + points * towards
    reads = {ANSWER: towards, OTHER: towards, WORDS: np.roll(towards, 5, 1)}
    values = {f"read|{name}": read + rng.normal(0, 0.05, read.shape) for name, read in reads.items()}
    attention = rng.uniform(0, 0.1, (n, LAYERS, HEADS))
    effects = rng.normal(0, 0.1, attention.shape)
    for layer, head in MOVERS:
        attention[:, layer, head] = looks + rng.normal(0, 0.02, n)
        effects[:, layer, head] -= 2
    values |= {
        "movers": movers,
        "random": rng.normal(0, 1, (n, DRAWS, len(MOVERS), WIDTH)),
        "mlp": mlp + rng.normal(0, 0.3, mlp.shape),
        f"head|{ATTENTION}": attention,
        f"head|{DIRECT}": effects,
        UNIFORM: np.full(n, 0.1),
    }
    for word, share in ((ANSWER, 1.0), (OTHER, 0.2)):
        values[f"mlp|direct|{word}"] = 0.5 - (doubt * share + 0.5) * _last(LAYERS, rng.normal(1, 0.1, n))
        heads = rng.normal(0.1, 0.02, (n, LAYERS, HEADS))
        heads[:, -1] = -doubt * share / HEADS + rng.normal(0, 0.02, (n, HEADS))
        values[f"head|direct|{word}"] = heads
    return Rows(examples, values | solved(rng, n))


def _last(layers: int, size: np.ndarray) -> np.ndarray:
    found = np.zeros((len(size), layers))
    found[:, -1] = size
    return found


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(recall, rows(**planted), **LEARNED)


def not_solved() -> dict[str, pd.DataFrame]:
    made = rows()
    made.values["right"] = np.zeros(len(made.examples))
    return tables_from(recall, made, **LEARNED)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of(**({} if holds else FAILING[name]))
