"""What the runs of `circuits` say to `overlap`: effect maps by task and stage, their halves, counts and doubts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from ._circuit_tables import STAGES

Maps = dict[tuple[str, str], np.ndarray]  # (task, stage) -> [layer, head]
Halves = tuple[np.ndarray, np.ndarray]
Runs = Mapping[str, Mapping[str, pd.DataFrame]]  # task -> tables of its run of `circuits`, of one condition


class Circuits(NamedTuple):
    """What the runs of one condition say: maps and their halves by (task, stage), counts and doubts by task."""

    maps: Maps
    halves: dict[tuple[str, str], Halves]
    counts: dict[str, dict[str, int]]
    unsolved: dict[str, str]
    pairs: list[tuple[str, str]]


def circuits_of(runs: Runs) -> Circuits:
    """Tasks as words, "colored objects", not as a command names them."""
    runs = {task.replace("_", " "): found for task, found in runs.items()}
    return Circuits(
        {(task, stage): grid for task, found in runs.items() for stage, grid in _maps(found["effects"]).items()},
        {(task, stage): pair for task, found in runs.items() for stage, pair in _halves(found).items()},
        {task: _count(found["effects"]) for task, found in runs.items()},
        {task: _unsolved(found) for task, found in runs.items()},
        list(combinations(runs, 2)),
    )


def _unsolved(found: Mapping[str, pd.DataFrame]) -> str:
    """Why a run's circuit is none, as its own claims say; or ""."""
    tested = found.get("tested")
    if tested is None:
        return ""
    return next((reason for reason in tested.loc[tested["claim"] == "sparse", "untestable"] if reason), "")


def _grid(rows: pd.DataFrame) -> np.ndarray:
    return rows.pivot(index="layer", columns="head", values="value").to_numpy()


def _maps(effects: pd.DataFrame) -> dict[str, np.ndarray]:
    heads = effects.query("part == 'head'")
    return {str(stage): _grid(rows) for stage, rows in heads.groupby("measure", sort=False) if stage in STAGES}


def _halves(found: Mapping[str, pd.DataFrame]) -> dict[str, Halves]:
    if "stability" not in found:
        return {}
    return {
        str(stage): (_grid(rows[rows["half"] == 1]), _grid(rows[rows["half"] == 2]))
        for stage, rows in found["stability"].groupby("measure", sort=False)
    }


def _count(effects: pd.DataFrame) -> dict[str, int]:
    return {"n": int(effects["n"].max()), "n_groups": int(effects["n_groups"].max())}
