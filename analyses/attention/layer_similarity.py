"""Likeness of layers: do they attend alike, what comes of all together, and would another layer's pattern do?

Cosines of maps between layers and between heads of neighbours, attention rolled out over layers, which positions reach
the last one, and what the loss is with a layer's pattern replaced. Tables: likeness, neighbours, rollout, reach, costs,
removed, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._likeness import KINDS, SHARES, THRESHOLDS, likeness
from ._similarity_findings import findings
from ._similarity_tables import TABLES
from ._swapped import REMOVED, SWAPS, WEAK, swapped

__all__ = ["TABLES", "findings"]

VERSION = 2
QUESTION = "Do layers attend alike, how far does attention reach through them, and would another layer's pattern do?"
PAPER = "arXiv 2409.14595 (EchoAtt), 2407.12866 (Shared Attention), 2503.03588 (PowerAttention), rollout: 2005.00928"
CLAIMS = (
    Statement(
        "neighbours attend alike",
        "Neighbouring layers attend alike: without the first token the cosine of their maps is more than what both "
        "share with uniform attention (difference above 0), and by more than for layers half a model apart.",
        "arXiv 2409.14595 (EchoAtt), 2407.12866 (Shared Attention), style; sink twin and controls are added here",
    ),
    Statement(
        "another layer's pattern will do",
        "The pattern of the layer below can stand in for a layer's own: in its place it costs less than .1 nats, mean "
        "over layers, and less than uniform attention and than the layer's own pattern on shuffled tokens.",
        "arXiv 2409.14595 (EchoAtt), style; bar and controls are this project's",
        0.1,
        "below",
    ),
    Statement(
        "likeness predicts the cost",
        "The more two neighbours' maps are alike the less it costs to use one's for the other: rank correlation over "
        "layers of the cosine without the first token with the cost below −.5, and below that of the cosine as it is.",
        "this project's bar, for what arXiv 2409.14595 and 2407.12866 choose layers by",
        -0.5,
        "below",
    ),
    Statement(
        "few hops reach all",
        "The last position reaches nearly all of the prompt in few layers: by entries of attention above .1 more than "
        "90 % of the positions within half of the layers, and more than by as many random entries.",
        "arXiv 2503.03588 (PowerAttention), style: there the graph is the mask",
        0.9,
    ),
    Statement(
        "weak entries do little",
        f"Entries of attention up to {WEAK} do little together: all of them removed in all layers cost less than .1 "
        "nats, and less than as many random entries.",
        "this project's, for the threshold that such graphs need",
        0.1,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """length: the first so many tokens of a prompt, of which maps are compared. swaps: whether patterns are replaced.
    positions: next tokens of a text whose loss is read, among these.
    """

    length: int = 96
    swaps: bool = True
    positions: int = 32


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    told = (
        f" Costs: the loss of {options.positions} next tokens (of a task with answers: of the answer) with a layer's "
        "queries and keys those of another layer, of the same layer on shuffled tokens, or with uniform attention, "
        "minus the loss as it is."
        if options.swaps
        else ""
    )
    return (
        f"Maps are the mean over heads of the first {options.length} tokens, rows from the third on. What both share "
        "with uniform attention: the product of their cosines with it. Sink twin: without the first token's column, "
        "renormalised. Heads: the cosine with the most like head of the layer below; control: its heads with each "
        "row's keys shuffled. Rollout: rows of (mean map + identity), renormalised, multiplied from layer to layer; "
        f"control: uniform maps. Reach: positions that the last one reaches by entries above a threshold; control: as "
        f"many random entries in each row.{told}"
    )


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_likeness.likeness` and `_swapped.swapped`. UserError: no attention, a prompt of fewer than four tokens."""
    if not subject.decoder.attending:
        raise UserError(f"{subject.name} has no attention: layer_similarity compares patterns")
    short = batch.mask.sum(1) < 4
    if bool(short.any()):
        name = batch.example_ids[int(short.nonzero()[0])]
        raise UserError(f"example {name} has fewer than four tokens: maps of such prompts are alike by construction")
    rows = likeness(subject, batch, how.options.length)
    return rows | (swapped(subject, batch, how.options.positions, how.options.length) if how.options.swaps else {})


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    by_layer = 2 * len(KINDS) * (subject.n_layers + 1) + 2 * len(SHARES) + 2 * len(THRESHOLDS) + len(SWAPS)
    return subject.n_layers * by_layer + len(REMOVED) + 1


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: mean maps and edges of all layers; q and k of two forwards, and variants."""
    n = min(options.length, positions)
    maps = batch * n * n * (subject.n_layers * (4 + len(THRESHOLDS)) + 16 * subject.n_heads)
    if not options.swaps:
        return costs.forward(subject, batch, positions) + maps
    count = len(SWAPS) * subject.n_layers + len(REMOVED)
    return (
        maps
        + 3 * costs.recording(subject, batch, positions, ())
        + costs.variants(subject, count, batch, positions, positions)
        + costs.logits(subject, batch * options.positions, 3)
    )


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
