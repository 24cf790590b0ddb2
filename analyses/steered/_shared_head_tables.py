"""Tables of `shared_heads`: how many chosen heads two tasks have in common, and which tasks choose a head."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How
from ..common.circuit_overlap import Head, heads_in_common
from ..common.stats import benjamini_hochberg

SHARED = "tasks share heads"
DEPTH = "as many heads in every layer"
LEVEL = 0.05  # of p
Runs = Mapping[str, Mapping[str, pd.DataFrame]]  # task -> tables of its run of one condition


def _chosen(found: Mapping[str, pd.DataFrame], column: str = "chosen") -> set[Head]:
    """The heads that a run chose; a run of LoFiT has several measures of each."""
    rows = found["heads"]
    rows = rows[rows[column].astype(bool)]
    return {(int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)}


def _shape(found: Mapping[str, pd.DataFrame]) -> tuple[int, int]:
    return int(found["heads"]["layer"].max()) + 1, int(found["heads"]["head"].max()) + 1


def _shared(runs: Runs, how: How) -> pd.DataFrame | None:
    """A row a pair; n is that of the smaller run."""
    table = pd.DataFrame([_pair(runs, *names) for names in combinations(runs, 2)])
    return None if table.empty else table.assign(q_value=benjamini_hochberg(table["p_value"].to_numpy()))


def _pair(runs: Runs, a: str, b: str) -> dict[str, Any]:
    first, second = runs[a], runs[b]
    counts = min((_counts(one) for one in (first, second)), key=lambda one: one["n"])
    common = heads_in_common(_chosen(first), _chosen(second), _shape(first))
    told = {"ceiling": float(np.mean([_again(first), _again(second)])), "untestable": _doubt(common["p_least"])}
    return {"pair": f"{_said(a)} and {_said(b)}"} | common | told | counts


def _doubt(least: float) -> str:
    """Why no number of common heads could tell anything; or ""."""
    return "" if least < LEVEL else f"the most heads that these sets could share would be chance (p = {least:.2g})"


def _again(found: Mapping[str, pd.DataFrame]) -> float:
    """What a second seed of training chooses again, as a share; NaN where nothing is trained."""
    if "chosen_by_second" not in found["heads"]:
        return np.nan
    ours, second = _chosen(found), _chosen(found, "chosen_by_second")
    return len(ours & second) / len(ours)


def _counts(found: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    return {"n": int(found["heads"]["n"].max()), "n_groups": int(found["heads"]["n_groups"].max())}


def _said(task: str) -> str:
    return task.replace("_", " ")


def _heads(runs: Runs, how: How) -> pd.DataFrame | None:
    """Of every head how many tasks choose it, and which."""
    chosen = {_said(task): _chosen(found) for task, found in runs.items()}
    shape = _shape(next(iter(runs.values())))
    users = {place: [task for task, heads in chosen.items() if place in heads] for place in np.ndindex(*shape)}
    return pd.DataFrame(
        {"layer": layer, "head": head, "value": float(len(tasks)), "unit": "tasks", "tasks": ", ".join(tasks)}
        for (layer, head), tasks in users.items()
    )


TABLES = {
    "shared": (
        _shared,
        ("pair", "heads", "common", "expected", "p_value", "p_least", "q_value", "ceiling", "untestable"),
    ),
    "heads": (_heads, ("tasks",)),
}
