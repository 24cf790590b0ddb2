"""Overlap: how far the circuits of two tasks are the same heads, against what depth alone would give.

Made of finished runs of `circuits` on one subject; runs no model. Tables: maps, scatter, overlap, correlation, circuit;
see `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from . import metrics, stats
from .agreement import spearman
from .circuits import DIRECT, EXACT, MOVERS
from .claims import Claim, verdict
from .frames import order_columns

REVISION = 1
JOINS = "circuits"
QUESTION = "Do two tasks use the same heads, more than heads of the same layers would coincide by chance?"
PAPER = "arXiv 2310.08744"
STAGES = (EXACT, DIRECT, MOVERS)
SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Options:
    """share: of all heads that counts as a circuit where one number is asked for."""

    share: float = 0.02


Maps = dict[tuple[str, str], np.ndarray]  # (task, stage) -> [layer, head]


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"A circuit is the flat share of heads of largest |mean effect| in one map (here {options.share:.0%}; the "
        "paper pools 2 % of each stage). Band: the 95 % range of the overlap if heads were exchangeable within layers "
        "(the layers' hypergeometric distributions, convolved, exact); p is the chance of at least the observed one. "
        "p that ignores depth: one hypergeometric distribution over all heads. Ceiling: the overlap of two halves of "
        "the groups of one task, mean of both tasks: noise allows no more."
    )


def tables(runs: dict[str, dict[str, pd.DataFrame]], options: Options) -> dict[str, pd.DataFrame]:
    """runs: task -> tables of its `circuits` run. n is that of the smaller run of a pair.

    maps: tasks measure layer head value (effect over the largest |effect| of the map) logits. scatter: pair measure
    layer head value (first task's effect) other (second's). overlap: pair measure share heads common value (share in
    common) lower upper (null band) expected jaccard ceiling p_value p_hypergeometric. correlation: pair measure value
    ceiling. circuit: tasks measure layer head: heads of `share` and the tasks that use them.
    """
    maps = {(task, stage): grid for task, found in runs.items() for stage, grid in _maps(found["effects"]).items()}
    halves = {(task, stage): pair for task, found in runs.items() for stage, pair in _halves(found).items()}
    counts = {task: _count(found["effects"]) for task, found in runs.items()}
    pairs = list(combinations(runs, 2))
    made = {
        "overlap": [row for pair in pairs for row in _overlaps(pair, maps, halves, counts)],
        "correlation": [row for pair in pairs for row in _correlations(pair, maps, halves, counts)],
        "scatter": [row for pair in pairs for row in _scatter(pair, maps, counts)],
        "maps": [row for key in maps for row in _map_rows(key, maps, counts)],
        "circuit": [row for stage in STAGES for row in _shared(stage, maps, options)],
    }
    return {name: order_columns(pd.DataFrame(rows)) for name, rows in made.items() if rows}


def _grid(rows: pd.DataFrame) -> np.ndarray:
    return rows.pivot(index="layer", columns="head", values="value").to_numpy()


def _first_condition(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["condition"] == table["condition"].iloc[0]]


def _maps(effects: pd.DataFrame) -> dict[str, np.ndarray]:
    heads = _first_condition(effects).query("part == 'head'")
    return {str(stage): _grid(rows) for stage, rows in heads.groupby("measure", sort=False) if stage in STAGES}


def _halves(found: dict[str, pd.DataFrame]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if "stability" not in found:
        return {}
    table = _first_condition(found["stability"])
    return {
        str(stage): (_grid(rows[rows["half"] == 1]), _grid(rows[rows["half"] == 2]))
        for stage, rows in table.groupby("measure", sort=False)
    }


def _count(effects: pd.DataFrame) -> dict[str, int]:
    row = _first_condition(effects).iloc[0]
    return {"n": int(row["n"]), "n_groups": int(row["n_groups"])}


def _name(pair: tuple[str, str]) -> str:
    return f"{pair[0]} and {pair[1]}"


def _both(pair: tuple[str, str], maps: Maps) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [(s, maps[pair[0], s], maps[pair[1], s]) for s in STAGES if (pair[0], s) in maps and (pair[1], s) in maps]


def _smaller(pair: tuple[str, str], counts: dict[str, dict[str, int]]) -> dict[str, int]:
    return min((counts[task] for task in pair), key=lambda c: c["n"])


def _overlaps(pair: tuple[str, str], maps: Maps, halves: dict, counts: dict) -> list[dict[str, Any]]:
    found = []
    for stage, a, b in _both(pair, maps):
        for share in SHARES:
            given = {f"halves_{x}": halves.get((task, stage)) for x, task in zip("ab", pair, strict=True)}
            overlap = stats.circuit_overlap(a, b, share=share, **given)
            size = max(1, round(share * a.size))
            null = stats.overlap_distribution(_profile(a, share), _profile(b, share), a.shape[1])
            low, high = (int(np.searchsorted(null.cumsum(), q)) / size for q in (0.025, 0.975))
            found.append(
                {"pair": _name(pair), "measure": stage, "share": share, "heads": size, "common": len(overlap.heads)}
                | {"value": overlap.share, "lower": low, "upper": high, "unit": "share in common"}
                | {"expected": float(null @ np.arange(len(null))) / size, "jaccard": overlap.jaccard}
                | {"ceiling": overlap.ceiling, "p_value": overlap.p_value}
                | {"p_hypergeometric": overlap.p_hypergeometric, **_smaller(pair, counts)}
            )
    return found


def _top(grid: np.ndarray, share: float) -> list[tuple[int, int]]:
    return metrics.top_heads(torch.tensor(grid), share)


def _profile(grid: np.ndarray, share: float) -> np.ndarray:
    """How many heads of each layer are in the circuit."""
    return np.bincount([layer for layer, _ in _top(grid, share)], minlength=len(grid))


def _correlations(pair: tuple[str, str], maps: Maps, halves: dict, counts: dict) -> list[dict[str, Any]]:
    """Rank correlation of |effects| over all heads, and of signed ones; ceiling: between halves of one task."""
    found = []
    for stage, a, b in _both(pair, maps):
        for kind, of in (("|effect|", np.abs), ("effect", np.array)):
            own = [spearman(of(x).ravel(), of(y).ravel()) for t in pair for x, y in [halves.get((t, stage), (a, a))]]
            ceiling = float(np.mean(own)) if all((task, stage) in halves for task in pair) else np.nan
            value = spearman(of(a).ravel(), of(b).ravel())
            row = {"pair": _name(pair), "measure": stage, "kind": kind, "value": value, "ceiling": ceiling}
            found.append(row | {"unit": "rank correlation over heads", "heads": a.size, **_smaller(pair, counts)})
    return found


def _scatter(pair: tuple[str, str], maps: Maps, counts: dict) -> list[dict[str, Any]]:
    return [
        {"pair": _name(pair), "measure": stage, "layer": layer, "head": head, "value": a[layer, head]}
        | {"other": b[layer, head], "unit": "logits", **_smaller(pair, counts)}
        for stage, a, b in _both(pair, maps)
        for layer, head in np.ndindex(*a.shape)
    ]


def _map_rows(key: tuple[str, str], maps: Maps, counts: dict) -> list[dict[str, Any]]:
    (task, stage), grid = key, maps[key]
    largest = np.abs(grid).max() or np.nan
    return [
        {"tasks": task, "measure": stage, "layer": layer, "head": head, "value": grid[layer, head] / largest}
        | {"unit": "share of the task's largest |effect|", "logits": grid[layer, head], **counts[task]}
        for layer, head in np.ndindex(*grid.shape)
    ]


def _shared(stage: str, maps: Maps, options: Options) -> list[dict[str, Any]]:
    users: dict[tuple[int, int], list[str]] = {}
    for (task, of), grid in maps.items():
        for head in _top(grid, options.share) if of == stage else ():
            users.setdefault(head, []).append(task)
    order = sorted(users.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "layer": layer,
            "head": head,
            "value": len(tasks),
            "unit": "tasks",
            "measure": stage,
            "tasks": ", ".join(tasks),
        }
        for (layer, head), tasks in order
    ]


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's statement on every pair; thresholds set before any number was seen."""
    found = []
    overlap = tables["overlap"]
    overlap = overlap[(overlap["share"] == 0.02) & (overlap["measure"] == DIRECT)]
    for row in overlap.to_dict("records"):
        text = f"{row['pair'].capitalize()}: at 2 % more heads in common than depth explains (p < 0.05)."
        numbers = (
            f"{row['common']} of {row['heads']} heads on the path to the output in common, {row['expected']:.0%} "
            f"expected by depth, p {row['p_value']:.2g} (ignoring depth {row['p_hypergeometric']:.2g}), ceiling "
            f"{row['ceiling']:.0%}, n = {row['n']}"
        )
        found.append(Claim(text, PAPER, numbers, verdict(row["p_value"] < 0.05, row["p_value"] >= 0.5)))
    return found
