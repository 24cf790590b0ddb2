"""Overlap: how far the circuits of two tasks are the same heads, against what depth alone would give.

Made of finished runs of `circuits` on one subject; runs no model. Tables: maps, scatter, overlap, pooled, correlation,
circuit; see `tables`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How
from .. import metrics
from ..common import stats
from ..common.agreement import spearman
from ..common.claims import Claim, Statement, judge
from .circuits import DIRECT, STAGES

VERSION = 2
NEEDS = ("circuits",)
QUESTION = "Do two tasks use the same heads, more than heads of the same layers would coincide by chance?"
PAPER = "arXiv 2310.08744"
SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
CLAIMED = 0.02  # the share of heads that the claim is about, and the matrix

SHARED = Statement(
    "shared",
    "At 2 % two tasks share more heads on the path to the output than depth explains (Benjamini–Hochberg over pairs, q "
    "below 0.05); it fails where they share fewer than two samples of one task would.",
    PAPER,
)
CLAIMS = (SHARED,)


@dataclass(frozen=True)
class Options:
    """share: of all heads that counts as a circuit where one number is asked for."""

    share: float = 0.02


Maps = dict[tuple[str, str], np.ndarray]  # (task, stage) -> [layer, head]


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"A circuit is the flat share of heads of largest |mean effect| in one map (here {options.share:.0%}); table "
        "pooled has the paper's, the union of the top 2 % of each stage (of those that both runs have). Band: the 95 % "
        "range of the overlap if heads were exchangeable within layers (the layers' hypergeometric distributions, "
        "convolved, exact); p is the chance of at least the observed one, q Benjamini–Hochberg's over the pairs. p "
        "that ignores depth: one hypergeometric distribution over all heads. Ceiling: what two samples of one task as "
        "large as these would share, with 95 % of its draws (noise from the difference of two halves of the groups, "
        "mean of both tasks)."
    )


Runs = Mapping[str, Mapping[str, pd.DataFrame]]  # task -> tables of its run of `circuits`, of one condition


class _Circuits(NamedTuple):
    """What the runs of one condition say: maps and their halves by (task, stage), counts and doubts by task."""

    maps: Maps
    halves: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    counts: dict[str, dict[str, int]]
    unsolved: dict[str, str]
    pairs: list[tuple[str, str]]


def _circuits(runs: Runs) -> _Circuits:
    return _Circuits(
        {(task, stage): grid for task, found in runs.items() for stage, grid in _maps(found["effects"]).items()},
        {(task, stage): pair for task, found in runs.items() for stage, pair in _halves(found).items()},
        {task: _count(found["effects"]) for task, found in runs.items()},
        {task: _unsolved(found) for task, found in runs.items()},
        list(combinations(runs, 2)),
    )


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame | None:
    return pd.DataFrame(rows) if rows else None


def _overlap(runs: Runs, how: How) -> pd.DataFrame | None:
    """Heads in common of every pair, stage and share, with the null's band; n is that of the smaller run of a pair."""
    c = _circuits(runs)
    rows = [r | _doubt(pair, c.unsolved) for pair in c.pairs for r in _overlaps(pair, c.maps, c.halves, c.counts)]
    table = _table(rows)
    return None if table is None else table.assign(q_value=_over_pairs(table))


def _all_pooled(runs: Runs, how: How) -> pd.DataFrame | None:
    """The paper's overlap: circuits are the union of each stage's top 2 %."""
    c = _circuits(runs)
    return _table([row for pair in c.pairs for row in _pooled(pair, c.maps, c.counts)])


def _correlation(runs: Runs, how: How) -> pd.DataFrame | None:
    c = _circuits(runs)
    return _table([row for pair in c.pairs for row in _correlations(pair, c.maps, c.halves, c.counts)])


def _all_scatter(runs: Runs, how: How) -> pd.DataFrame | None:
    """First task's effect (value) and second's (other) of every head."""
    c = _circuits(runs)
    return _table([row for pair in c.pairs for row in _scatter(pair, c.maps, c.counts)])


def _all_maps(runs: Runs, how: How) -> pd.DataFrame | None:
    """Every map, effects over its largest |effect|, and in logits."""
    c = _circuits(runs)
    return _table([row for key in c.maps for row in _map_rows(key, c.maps, c.counts)])


def _circuit(runs: Runs, how: How) -> pd.DataFrame | None:
    """Heads of `share` and the tasks that use them."""
    maps = _circuits(runs).maps
    return _table([row for stage in STAGES for row in _shared(stage, maps, how.options)])


def _unsolved(found: Mapping[str, pd.DataFrame]) -> str:
    """Why a run's circuit is none, as its own claims say; or ""."""
    tested = found.get("tested")
    if tested is None:
        return ""
    return next((reason for reason in tested.loc[tested["claim"] == "sparse", "untestable"] if reason), "")


def _doubt(pair: tuple[str, str], unsolved: dict[str, str]) -> dict[str, str]:
    return {"untestable": "; ".join(f"{task}: {unsolved[task]}" for task in pair if unsolved[task])}


def _over_pairs(overlap: pd.DataFrame) -> pd.Series:
    """q over the pairs, of every stage and share apart."""
    grouped = overlap.groupby(["measure", "share"])["p_value"]
    return grouped.transform(lambda p: stats.benjamini_hochberg(p.to_numpy()))


def _grid(rows: pd.DataFrame) -> np.ndarray:
    return rows.pivot(index="layer", columns="head", values="value").to_numpy()


def _maps(effects: pd.DataFrame) -> dict[str, np.ndarray]:
    heads = effects.query("part == 'head'")
    return {str(stage): _grid(rows) for stage, rows in heads.groupby("measure", sort=False) if stage in STAGES}


def _halves(found: Mapping[str, pd.DataFrame]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if "stability" not in found:
        return {}
    return {
        str(stage): (_grid(rows[rows["half"] == 1]), _grid(rows[rows["half"] == 2]))
        for stage, rows in found["stability"].groupby("measure", sort=False)
    }


def _count(effects: pd.DataFrame) -> dict[str, int]:
    return {"n": int(effects["n"].max()), "n_groups": int(effects["n_groups"].max())}


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
            first, second = (_by_layer(_top(grid, share), len(grid)) for grid in (a, b))
            null = stats.overlap_distribution(first, second, a.shape[1])
            low, high = (int(np.searchsorted(null.cumsum(), q)) / size for q in (0.025, 0.975))
            found.append(
                {"pair": _name(pair), "measure": stage, "share": share, "heads": size, "common": len(overlap.heads)}
                | {"value": overlap.share, "lower": low, "upper": high, "unit": "share in common"}
                | {"expected": float(null @ np.arange(len(null))) / size, "jaccard": overlap.jaccard}
                | {"ceiling": overlap.ceiling, "ceiling_lower": overlap.ceiling_lower}
                | {"ceiling_upper": overlap.ceiling_upper, "p_value": overlap.p_value}
                | {"p_hypergeometric": overlap.p_hypergeometric, **_smaller(pair, counts)}
            )
    return found


def _pooled(pair: tuple[str, str], maps: Maps, counts: dict) -> list[dict[str, Any]]:
    """The paper's overlap: circuits are the union of each stage's top 2 %, of the stages that both runs have."""
    both = _both(pair, maps)
    if not both:
        return []
    first, second = ({head for _, *grids in both for head in _top(grids[which], CLAIMED)} for which in (0, 1))
    common, shape = len(first & second), both[0][1].shape
    null = stats.overlap_distribution(_by_layer(first, shape[0]), _by_layer(second, shape[0]), shape[1])
    shared = {"pair": _name(pair), "common": common, "heads_first": len(first), "heads_second": len(second)}
    shared |= {"stages": len(both), "p_value": min(1.0, float(null[common:].sum())), **_smaller(pair, counts)}
    shares = {"of the first task's": len(first), "of the second's": len(second), "Jaccard": len(first | second)}
    mean = float(null @ np.arange(len(null)))
    sizes = {name: (size, mean / size if name != "Jaccard" else np.nan) for name, size in shares.items()}
    return [
        shared | {"measure": name, "value": common / size, "expected": expected, "unit": "share in common"}
        for name, (size, expected) in sizes.items()
    ]


def _top(grid: np.ndarray, share: float) -> list[tuple[int, int]]:
    return metrics.top_heads(torch.tensor(grid), share)


def _by_layer(heads: Collection[tuple[int, int]], n_layers: int) -> np.ndarray:
    """How many heads of each layer are in the circuit."""
    return np.bincount([layer for layer, _ in heads], minlength=n_layers)


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


TABLES = {
    "overlap": (
        _overlap,
        (
            "pair",
            "measure",
            "share",
            "heads",
            "common",
            "expected",
            "jaccard",
            "ceiling",
            "ceiling_lower",
            "ceiling_upper",
            "p_value",
            "p_hypergeometric",
            "untestable",
            "q_value",
        ),
    ),
    "pooled": (
        _all_pooled,
        ("pair", "common", "heads_first", "heads_second", "stages", "p_value", "measure", "expected"),
    ),
    "correlation": (_correlation, ("pair", "measure", "kind", "ceiling", "heads")),
    "scatter": (_all_scatter, ("pair", "measure", "other")),
    "maps": (_all_maps, ("tasks", "measure", "logits")),
    "circuit": (_circuit, ("measure", "tasks")),
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's statement on every pair."""
    overlap = tables["overlap"]
    mine = overlap[(overlap["share"] == CLAIMED) & (overlap["measure"] == DIRECT)]
    return [_claim(row) for row in mine.to_dict("records")]


def _claim(row: Mapping[Any, Any]) -> Claim:
    """Holds by q alone; else the distance to the ceiling decides whether it fails."""
    note = (
        f"{row['pair']}: {row['common']} of {row['heads']} heads in common, {row['expected']:.0%} expected by depth, q "
        f"{row['q_value']:.2g} over pairs (p {row['p_value']:.2g}, ignoring depth {row['p_hypergeometric']:.2g}); "
        f"minus the ceiling of {row['ceiling']:.0%}"
    )
    half = 0.5 / row["heads"]  # heads are whole: below the ceiling's interval is one head below
    bounds = {"lower": row["value"] - row["ceiling_upper"] - half, "upper": row["value"] - row["ceiling_lower"] + half}
    distance = {"value": row["value"] - row["ceiling"], **bounds, "unit": "share in common"}
    distance |= {"n": row["n"], "n_groups": row["n_groups"]}
    is_below = distance["upper"] < 0
    p_value = row["p_value"] if row["q_value"] < 0.05 else None if is_below else row["q_value"]
    return judge(SHARED, distance, p_value=p_value, untestable=row["untestable"], note=note)
