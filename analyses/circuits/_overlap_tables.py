"""Tables of `overlap`: heads in common of every pair of tasks, against what depth alone would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How
from .. import metrics
from ..common import stats
from ..common.agreement import spearman
from ..common.asked import require_share
from ..common.circuit_overlap import Head, heads_in_common
from ._circuit_tables import STAGES
from ._overlap_maps import Circuits, Maps, Runs, circuits_of

SHARES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
CLAIMED = 0.02  # the share of heads that the claim is about, and the matrix


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame | None:
    return pd.DataFrame(rows) if rows else None


def _overlap(runs: Runs, how: How) -> pd.DataFrame | None:
    """Heads in common of every pair, stage and share, with the null's band; n is that of the smaller run of a pair."""
    require_share("overlap", how.options, "share")
    c = circuits_of(runs)
    rows = [r | _doubt(pair, c.unsolved) for pair in c.pairs for r in _overlaps(pair, c)]
    table = _table(rows)
    return None if table is None else table.assign(q_value=_over_pairs(table))


def _all_pooled(runs: Runs, how: How) -> pd.DataFrame | None:
    """The paper's overlap: circuits are the union of each stage's top 2 %."""
    c = circuits_of(runs)
    return _table([row for pair in c.pairs for row in _pooled(pair, c)])


def _correlation(runs: Runs, how: How) -> pd.DataFrame | None:
    c = circuits_of(runs)
    return _table([row for pair in c.pairs for row in _correlations(pair, c)])


def _all_scatter(runs: Runs, how: How) -> pd.DataFrame | None:
    """First task's effect (value) and second's (other) of every head."""
    c = circuits_of(runs)
    return _table([row for pair in c.pairs for row in _scatter(pair, c)])


def _all_maps(runs: Runs, how: How) -> pd.DataFrame | None:
    """Every map, effects over its largest |effect|, and in logits."""
    c = circuits_of(runs)
    return _table([row for key in c.maps for row in _map_rows(key, c)])


def _circuit(runs: Runs, how: How) -> pd.DataFrame | None:
    """Heads of `share` and the tasks that use them."""
    maps = circuits_of(runs).maps
    return _table([row for stage in STAGES for row in _shared(stage, maps, how.options)])


def _doubt(pair: tuple[str, str], unsolved: dict[str, str]) -> dict[str, str]:
    return {"untestable": "; ".join(f"{task}: {unsolved[task]}" for task in pair if unsolved[task])}


def _over_pairs(overlap: pd.DataFrame) -> pd.Series:
    """q over the pairs, of every stage and share apart."""
    grouped = overlap.groupby(["measure", "share"])["p_value"]
    return grouped.transform(lambda p: stats.benjamini_hochberg(p.to_numpy()))


def _name(pair: tuple[str, str]) -> str:
    return f"{pair[0]} and {pair[1]}"


def _both(pair: tuple[str, str], maps: Maps) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [(s, maps[pair[0], s], maps[pair[1], s]) for s in STAGES if (pair[0], s) in maps and (pair[1], s) in maps]


def _smaller(pair: tuple[str, str], c: Circuits) -> dict[str, int]:
    return min((c.counts[task] for task in pair), key=lambda counts: counts["n"])


def _overlaps(pair: tuple[str, str], c: Circuits) -> list[dict[str, Any]]:
    found = []
    for stage, a, b in _both(pair, c.maps):
        halves = {f"halves_{x}": c.halves.get((task, stage)) for x, task in zip("ab", pair, strict=True)}
        for share in SHARES:
            overlap = stats.circuit_overlap(a, b, share=share, **halves)
            found.append(
                {"pair": _name(pair), "measure": stage, "share": share, "jaccard": overlap.jaccard}
                | heads_in_common(_top(a, share), _top(b, share), a.shape)
                | {"ceiling": overlap.ceiling, "ceiling_lower": overlap.ceiling_lower}
                | {"ceiling_upper": overlap.ceiling_upper, "p_hypergeometric": overlap.p_hypergeometric}
                | _smaller(pair, c)
            )
    return found


def _pooled(pair: tuple[str, str], c: Circuits) -> list[dict[str, Any]]:
    """The paper's overlap: circuits are the union of each stage's top 2 %, of the stages that both runs have."""
    both = _both(pair, c.maps)
    if not both:
        return []
    first, second = ({head for _, *grids in both for head in _top(grids[which], CLAIMED)} for which in (0, 1))
    found = heads_in_common(first, second, both[0][1].shape)
    shared = {"pair": _name(pair), "common": found["common"], "heads_first": len(first), "heads_second": len(second)}
    shared |= {"stages": len(both), "p_value": found["p_value"], "unit": found["unit"], **_smaller(pair, c)}
    expected = found["expected"] * found["heads"]  # of the smaller set
    return [
        shared | {"measure": name, "value": found["common"] / size, "expected": by_depth / size}
        for name, size, by_depth in (
            ("of the first task's", len(first), expected),
            ("of the second's", len(second), expected),
            ("Jaccard", len(first | second), np.nan),
        )
    ]


def _top(grid: np.ndarray, share: float) -> list[Head]:
    return metrics.top_heads(torch.tensor(grid), share)


def _correlations(pair: tuple[str, str], c: Circuits) -> list[dict[str, Any]]:
    """Rank correlation of |effects| over all heads, and of signed ones; ceiling: between halves of one task."""
    found = []
    for stage, a, b in _both(pair, c.maps):
        for kind, of in (("|effect|", np.abs), ("effect", np.array)):
            own = [spearman(of(x).ravel(), of(y).ravel()) for t in pair for x, y in [c.halves.get((t, stage), (a, a))]]
            ceiling = float(np.mean(own)) if all((task, stage) in c.halves for task in pair) else np.nan
            value = spearman(of(a).ravel(), of(b).ravel())
            row = {"pair": _name(pair), "measure": stage, "kind": kind, "value": value, "ceiling": ceiling}
            heads = int((~np.isnan(a)).sum())
            found.append(row | {"unit": "rank correlation over heads", "heads": heads, **_smaller(pair, c)})
    return found


def _scatter(pair: tuple[str, str], c: Circuits) -> list[dict[str, Any]]:
    return [
        {"pair": _name(pair), "measure": stage, "layer": layer, "head": head, "value": a[layer, head]}
        | {"other": b[layer, head], "unit": "logits", **_smaller(pair, c)}
        for stage, a, b in _both(pair, c.maps)
        for layer, head in np.ndindex(*a.shape)
    ]


def _map_rows(key: tuple[str, str], c: Circuits) -> list[dict[str, Any]]:
    (task, stage), grid = key, c.maps[key]
    largest = np.nanmax(np.abs(grid)) or np.nan
    return [
        {"tasks": task, "measure": stage, "layer": layer, "head": head, "value": grid[layer, head] / largest}
        | {"unit": "share of the task's largest |effect|", "logits": grid[layer, head], **c.counts[task]}
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
            "p_least",
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
