"""Tower profile: how the patches of the vision tower attend, near or far, and which heads are alike

Attention of patches by distance on the grid, on themselves and on the class token, block by block and head by head, and
heads that look alike. Tables: blocks, heads, hops, clusters, stability, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._tower_findings import findings
from ._tower_rows import HOPS, STATISTICS, UPDATES, tower_rows
from ._tower_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "How do the patches of the vision tower attend: near or far, to themselves, and which heads are alike?"
PAPER = "arXiv 2303.13731 (visual analytics of ViTs), repository of arXiv 2506.10178 (per-block statistics)"
CLAIMS = (
    Statement(
        "later blocks look further",
        "Heads look further in later blocks: the mean distance of attended patches is larger in the last third of the "
        "blocks than in the first (difference above 0 patches).",
        "arXiv 2303.13731, style",
    ),
    Statement(
        "early blocks look near",
        "Early blocks look near: in the first third of the blocks the mean distance of attended patches is below that "
        "of uniform attention, borders counted (difference below 0 patches).",
        "arXiv 2303.13731, style; uniform attention is added here",
        side="below",
    ),
    Statement(
        "patches look at themselves",
        "Patches look at themselves: own attention, mean over blocks and heads, is above that of uniform attention "
        "(difference above 0).",
        "repository of arXiv 2506.10178, code; uniform attention is added here",
    ),
)


@dataclass(frozen=True)
class Options:
    """clusters: heads are put into 2 to so many groups, as many as the silhouette likes best."""

    clusters: int = 6


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Distance: the larger of the differences in row and column on the grid of patches; attention on the class "
        "token, where there is one, is left out of it. Means over patches, an example's pictures, examples. Uniform: "
        "attention alike on all tokens, borders counted. Groups of heads: k-means of the heads' attention by distance, "
        f"each distance standardised, k of 2 to {options.clusters} by silhouette; stability: adjusted Rand index of "
        "the groups found on two halves of the groups of examples, 20 splits; control: the distances of each head in "
        "another order."
    )


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_tower_rows.tower_rows`."""
    return tower_rows(subject, batch)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    tower = subject.vision
    if tower is None:
        return 0
    by_head = len(STATISTICS) + 1 + HOPS
    return tower.n_layers * (tower.n_heads * by_head + len(UPDATES)) + by_head


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one example's forward again, with a block's maps of its pictures."""
    return 2 * costs.forward(subject, 1, positions)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
