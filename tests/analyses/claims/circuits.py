"""Planted rows of circuits: of 5 × 8 heads 1.2 carries the task, attends to the answer and is found by gradients."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.circuits import _circuit_tables, circuits
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from

HEADS, LAYERS, CARRIER = 8, 5, (1, 2)
ON_ANSWER = f"{_circuit_tables.ATTENTION}indirect_object"


def rows(seed: int = 0, n: int = 60, n_groups: int = 20, *, null: bool = False) -> Rows:
    """Solved by all; the twin takes 4 logits away. null: no head does anything, templates and prompts differ."""
    rng = np.random.default_rng(seed)
    examples, groups = task(rng, n, n_groups)
    templates = rng.normal(0, 1, (n_groups, LAYERS, HEADS))[groups] if null else np.zeros((n, LAYERS, HEADS))
    values = {name: templates + rng.normal(0, 0.5 if null else 0.05, templates.shape) for name in ("exact", "direct")}
    if not null:
        for effects in values.values():
            effects[:, *CARRIER] -= 3
    attention = np.full((n, LAYERS, HEADS), 0.05) + rng.uniform(0, 0.02, (n, LAYERS, HEADS))
    attention[:, *CARRIER] += 0.5
    estimates = {"5 steps": 0.02, "1 step": 0.5}
    guesses = {f"head|{k}": values["exact"] + rng.normal(0, sd, templates.shape) for k, sd in estimates.items()}
    parts = {
        f"head|{_circuit_tables.EXACT}": values["exact"],
        f"head|{_circuit_tables.DIRECT}": values["direct"],
        f"head|{_circuit_tables.LOGITS}": -values["direct"],
        f"head|{ON_ANSWER}": attention,
        f"{_circuit_tables.ALIKE}indirect_object": np.full(n, 0.1),
        f"mlp|{_circuit_tables.EXACT}": values["exact"][..., 0],
    }
    return Rows(examples, parts | guesses | solved(rng, n))


def task(rng: np.random.Generator, n: int, n_groups: int) -> tuple[pd.DataFrame, np.ndarray]:
    groups = np.arange(n) % n_groups
    names = [f"g{group:02d}" for group in groups]
    return pd.DataFrame({"id": range(n), "group": names, "condition": "BOS"}), groups


def solved(rng: np.random.Generator, n: int, share: float = 0.95) -> dict[str, np.ndarray]:
    """The task's own numbers: `share` of prompts right where guessing gives a half, 4 logits clean − corrupt."""
    clean = 2 + rng.normal(0, 0.3, n)
    right = (rng.random(n) < share).astype(float)
    return {"right": right, "top1": right, "guessing": np.full(n, 0.5), "clean": clean, "donor": rng.normal(-2, 0.3, n)}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    made, rng = rows(), np.random.default_rng(1)
    if not holds:
        change(name, made.values, rng)
    return tables_from(circuits, made)


def change(name: str, values: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Turn the planted rows into those in which the claim fails."""
    exact = values[f"head|{_circuit_tables.EXACT}"]
    if name == "solved":
        values["right"][:] = rng.random(len(values["right"])) < 0.2
    if name == "twins differ":
        values["donor"][:] = values["clean"] + rng.normal(1, 0.2, len(values["clean"]))
    if name in ("sparse", "nine tenths"):  # many heads carry it alike
        exact[:, :, :6] = -1 + rng.normal(0, 0.05, exact[:, :, :6].shape)
    if name == "movers":
        values[f"head|{ON_ANSWER}"][:, *CARRIER] -= 0.5
    if name == "gradients":
        one, five = values["head|1 step"].copy(), values["head|5 steps"].copy()
        values["head|1 step"][:], values["head|5 steps"][:] = five, one
