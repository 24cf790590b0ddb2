"""Tables of `overlap`: heads in common of every pair of tasks, against what depth alone would give."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How
from .. import metrics
from ..common import stats
from ..common.agreement import spearman
from ._circuit_tables import STAGES

SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


CLAIMED = 0.02  # the share of heads that the claim is about, and the matrix


Maps = dict[tuple[str, str], np.ndarray]  # (task, stage) -> [layer, head]


Runs = Mapping[str, Mapping[str, pd.DataFrame]]  # task -> tables of its run of `circuits`, of one condition


class _Circuits(NamedTuple):
    """What the runs of one condition say: maps and their halves by (task, stage), counts and doubts by task."""

    maps: Maps
    halves: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    counts: dict[str, dict[str, int]]
    unsolved: dict[str, str]
    pairs: list[tuple[str, str]]


def _circuits(runs: Runs) -> _Circuits:
    """Tasks as words, "colored objects", not as a command names them."""
    runs = dict(zip(_told(list(runs)), runs.values(), strict=True))
    return _Circuits(
        {(task, stage): grid for task, found in runs.items() for stage, grid in _maps(found["effects"]).items()},
        {(task, stage): pair for task, found in runs.items() for stage, pair in _halves(found).items()},
        {task: _count(found["effects"]) for task, found in runs.items()},
        {task: _unsolved(found) for task, found in runs.items()},
        list(combinations(runs, 2)),
    )


def _told(tasks: list[str]) -> list[str]:
    """The tasks in words, without the options that all of them have: "scenes", "scenes form=words"."""
    each = [task.split(" ") for task in tasks]
    common = set.intersection(*({*words[1:]} for words in each)) if len(each) > 1 else set()
    return [" ".join(word for word in words if word not in common).replace("_", " ") for words in each]


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
            heads = int((~np.isnan(a)).sum())
            found.append(row | {"unit": "rank correlation over heads", "heads": heads, **_smaller(pair, counts)})
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
    largest = np.nanmax(np.abs(grid)) or np.nan
    return [
        {"tasks": task, "measure": stage, "layer": layer, "head": head, "value": grid[layer, head] / largest}
        | {"unit": "share of the task's largest |effect|", "logits": grid[layer, head], **counts[task]}
        for layer, head in np.ndindex(*grid.shape)
    ]


def _shared(stage: str, maps: Maps, options: Any) -> list[dict[str, Any]]:
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
