"""Faithfulness: what of a task a circuit does alone, and whether cheap estimates would have found it.

The heads outside of a circuit are given the corrupt twin's outputs, at every position; MLPs and embeddings stay. The
heads are ranked by their exact effects on one half of the groups (of held-out examples) and scored on the other: by how
much they help (CPR) and by |effect| (CMD). Beside it: exact effects at all positions, gradient estimates of them, and
where in the prompt the effects lie.

Tables: task, curve, area, effects, positions, agreement, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.patching import patch_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from .. import metrics
from ..common.agreement import exact_and_estimates
from ..common.asked import every_head, require_counts, require_heads
from ..common.claims import Claim, Statement
from ..common.contrast import contrast, task_rows
from ..common.controls import DRAWS, Head
from ..common.selection import chosen_half, measured
from ..common.tested import judged
from ._curves import curve_points
from ._faithfulness_findings import findings
from ._faithfulness_tables import EXACT, GRADIENTS_BAR, RANKINGS, SHARES, TABLES
from ._positions import SITES, effects_by_position

__all__ = ["TABLES", "claims", "findings"]

VERSION = 5
QUESTION = "Does the circuit alone do the task, and would gradients have found it?"
PAPER = "faithfulness as in arXiv 2504.13151 (MIB: CPR, CMD); arXiv 2403.17806 (integrated gradients)"
FIT_EXAMPLES = 32

CLAIMS = (
    Statement(
        "faithful",
        "A tenth of the heads does the task: faithfulness at 10 % of the heads (largest |effect| first) is above 0.8.",
        "arXiv 2211.00593",
        0.8,
    ),
    Statement(
        "not depth",
        "The heads matter, not their depth: at 10 % the circuit is more faithful than random heads of its layers.",
        "control",
    ),
    Statement(
        "gradients",
        "Gradients find the circuit: the top 5 % of heads by integrated gradients hold more than 70 % of the effect "
        "that the exact top 5 % hold (both chosen on one half of the groups, measured on the other).",
        "arXiv 2403.17806",
        GRADIENTS_BAR,
    ),
)


@dataclass(frozen=True)
class Options:
    """draws: random circuits per point. ranking: all heads as (layer, head), of largest |effect| (or help) first; found
    on held-out examples where None. positions: whether effects by named position are measured too.
    """

    draws: int = DRAWS
    ranking: tuple[Head, ...] | None = None
    positions: bool = True


class Learned(NamedTuple):
    """ranking: all heads as (layer, head), of largest |effect| first; helpful: those that help most first (those that
    hinder last); selected_on: the groups that both come from, none where the ranking was given.
    """

    ranking: Sequence[Sequence[int]] = ()
    helpful: Sequence[Sequence[int]] = ()
    selected_on: Sequence[str] = ()


RETIRED = {"helpful": (), "selected_on": ()}


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "A circuit keeps the top share of heads; every other head's z is taken from the corrupt twin at all "
        "positions. It is a circuit of heads alone: MLPs are computed again and, like the embeddings, never taken from "
        "the twin, so these numbers cannot stand beside MIB's tables. Faithfulness: (m − m₀) / (clean − m₀), m the "
        "mean logit difference and m₀ that with no head kept. CPR is the area under the curve over the share kept of "
        "the heads that help most (most negative patched − clean first), CMD the area between 1 and the curve of the "
        "heads of largest |effect| (trapezoids); on the log axis from 1 % on, divided by its length. Both rankings "
        f"{_ranked_said(options, learned, fitted_on)}. Control: as many other heads of the same "
        f"layers, of the nearest of them where a layer has too few, {options.draws} "
        "draws; there is none where the circuit has more than half of all heads of its layers."
    )


def _ranked_said(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    if options.ranking is not None:
        return "are the one that was given, not measured here; curves are over the examples of all groups"
    return (
        f"are by exact effects at all positions on held-out examples of {len(learned.selected_on)} groups, of "
        f"{fitted_on['examples']} examples in all; curves are over examples of the other groups alone"
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """All heads by help and by |effect|, measured on the held-out examples of one half of the groups."""
    _require(subject, options)
    if options.ranking is not None:
        given = [list(head) for head in options.ranking]
        return Learned(given, given)
    half, groups = chosen_half(subject, batches, "faithfulness")
    effects = []
    for batch in half:
        found = contrast(subject, batch, ("z",))
        sweep = patch_sweep(subject, found.base, found.donor, "z", positions=found.parted, measure=found.measure)
        effects.append(sweep.effects)
    helpful, ranking = _rankings(torch.cat(effects).mean(0))
    return Learned(ranking, helpful, groups)


def _require(subject: Any, options: Options) -> None:
    """The whole ranking stands for the clean run: a head that it leaves out would be the twin's all along the curve."""
    require_counts("faithfulness", options, draws=1)
    if options.ranking is None:
        return
    require_heads("faithfulness.ranking", options.ranking, subject)
    there, given = len(every_head(subject)), len(options.ranking)
    if not len(set(options.ranking)) == given == there:
        raise UserError(
            f"--faithfulness.ranking: {given} heads, {len(set(options.ranking))} of them different; it has to name "
            f"each of the {there} heads of {subject.name} once"
        )


def _rankings(effects: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """All heads as [layer, head], by how much they help (most negative patched − clean first) and by |effect|."""
    ranking = [list(head) for head in metrics.top_heads(effects, 1.0)]
    order = effects.flatten().argsort(stable=True).tolist()  # NaN comes last: layers without heads
    helpful = [list(divmod(place, effects.shape[1])) for place in order[: len(ranking)]]
    return helpful, ranking


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Exact and estimated effects [b, layer(, head)]; by named position; and the points of the curves, NaN for
    examples of the groups that the ranking comes from."""
    found = contrast(subject, batch, SITES)
    kept = task_rows(found) | exact_and_estimates(subject, found, found.parted, EXACT)
    if how.options.positions:
        kept |= effects_by_position(subject, batch, found)
    scored = torch.from_numpy(measured([e.group for e in batch.examples], how.learned.selected_on))
    points = torch.full((len(scored), len(RANKINGS), 1 + how.options.draws, len(SHARES)), torch.nan)
    if bool(scored.any()):
        examples = [e for e, there in zip(batch.examples, scored.tolist(), strict=True) if there]
        few = contrast(subject, subject.batch(examples, **batch.form), ("z",))
        curves = [curve_points(subject, few, heads, how.options.draws) for heads in _both(how.learned)]
        points[scored] = torch.stack(curves, 1)
    return kept | {"curve": points[:, :, 0].contiguous(), "random": points[:, :, 1:].contiguous()}


def _both(learned: Learned) -> list[tuple[Head, ...]]:
    both = (learned.helpful or learned.ranking, learned.ranking)
    return [tuple((layer, head) for layer, head in heads) for heads in both]


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    named = 5  # positions, about
    return (4 + named) * subject.n_layers * (subject.n_heads + 2) + 2 * (options.draws + 1) * len(SHARES)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded, twice, and what asks most of sweeps and gradients."""
    heads = costs.variants(subject, subject.n_layers * subject.n_heads, batch, positions, positions)
    recorded = sum(costs.recording(subject, batch, positions, sites) for sites in (SITES, ("z",)))
    return 2 * recorded + max(heads, costs.gradient(subject, batch, positions))


# ---------------------------------------------------------------- claims


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of circuits, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
