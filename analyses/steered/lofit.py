"""LoFiT: a few heads are chosen and shifted so that the model does a task

A scale is learned for every head with the model frozen; the heads whose scale is largest get an offset, learned anew.
Beside them as many random heads of the same layers, random directions of the same norms, a second seed, and a
difference of means; offsets at several strengths. Tables: effects, gain, strengths, heads, overlap, neutral, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.changed import changed
from ..common.circuit_overlap import above_depth
from ..common.claims import Claim, Statement, judge, one_row
from ..common.frames import held_out
from ..common.selection import chosen_half, strongest
from ..common.tested import judged
from ._lofit_findings import DEPTH, findings
from ._lofit_learned import (
    CONTROLS,
    EDITS,
    OURS,
    TOKENS,
    count_of,
    edits_of,
    neutral_losses,
    offsets_of,
    strengths_of,
)
from ._lofit_options import require
from ._lofit_rows import READ, moved, under_edits
from ._lofit_tables import CHOSEN, NEUTRAL, RUN_TABLES, SEEDS, TABLES, TWO_SEEDS
from ._lofit_training import Prompts, learned_scales

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 3
QUESTION = "Are a few heads enough to make a model do a task, and are they always the same ones?"
PAPER = "arXiv 2406.01563 (LoFiT)"
FIT_EXAMPLES = 128
CLAIMS = (
    Statement(
        CHOSEN,
        "It matters which heads are shifted: offsets learned for the chosen heads, 3 % of all by default, raise log p "
        "of the answer on examples of other groups (difference above 0), by more than offsets learned as long for as "
        "many random heads of the same layers.",
        "arXiv 2406.01563 (LoFiT): chosen against random heads; that these are of the same layers is this project's",
    ),
    Statement(
        SEEDS,
        "The choice of heads can be repeated: two seeds of training choose more heads in common than sets with as many "
        "heads in every layer would (exact, p at most .05). Whether they are this task's alone takes another task.",
        "own bar, the ceiling of what arXiv 2406.01563 (LoFiT) says of the heads of different tasks",
    ),
    Statement(
        NEUTRAL,
        "What is learned stays with the task: with the offsets in the chosen heads the loss of novels rises by less "
        "than .05 nats a token, and by less than with those learned for random heads of the same layers.",
        "own bar, beside arXiv 2406.01563 (LoFiT)",
        0.05,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """top: heads that are chosen, 0 for 3 % of all and four at least. steps, batch, rate: of either stage, Adam with a
    rate that falls to 0. l1: of the scales. draws: sets of random heads, each trained as long, and of random
    directions. strengths: what offsets are multiplied by, the first is 1: as learned; claims are read there. neutral:
    passages of novels whose loss is read under the same edits, 0 for none.
    """

    top: int = 0
    steps: int = 30
    batch: int = 8
    rate: float = 5e-3
    l1: float = 5e-4
    draws: int = 2
    strengths: tuple[float, ...] = (1.0, 0.5, 2.0)
    neutral: int = 16


class Learned(NamedTuple):
    """scale [layer, head, d]: of the first seed. strengths: of both seeds ‖scale‖ [layer, head]. offsets: of every set
    its name, heads, and what is added to each. examples: so many it was learned from. documents, losses: of each
    neutral passage its document, and for the model as it is and each edit its loss. selected_on: the groups that all
    this comes from.
    """

    scale: Sequence[Any] = ()
    strengths: Sequence[Any] = ()
    offsets: Sequence[tuple[str, Sequence[Sequence[int]], Sequence[Sequence[float]]]] = ()
    examples: int = 0
    documents: Sequence[str] = ()
    losses: Mapping[str, Sequence[float]] = {}
    selected_on: Sequence[str] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    named = {name: heads for name, heads, _ in learned.offsets}
    heads = " ".join(f"{layer}.{head}" for layer, head in named.get(OURS, ()))
    means = "" if len(named) == 0 or "difference of means" in named else " (these prompts have no twin: left out)"
    strengths = ", ".join(f"{one:g}" for one in sorted(options.strengths))
    return (
        f"Learned, with the model frozen, from {learned.examples} examples of one half of the groups of "
        f"{held_out(fitted_on)}: first a scale A of every head's output z, which becomes (1 + A) ⊙ z at every position "
        f"(cross-entropy of the answer's first token, L1 {options.l1:g}, Adam with rate {options.rate:g} falling to 0, "
        f"{options.steps} steps of {options.batch} prompts); then, without A, an offset v added to z in the heads of "
        f"largest ‖A‖ ({heads}), with the same steps. Beside it v learned as long for as many random heads of the same "
        f"layers and, in the chosen heads, a random direction with the norm of each one's v ({options.draws} draws of "
        "either), v for the heads that a second seed chooses, and in the chosen heads the mean z of prompts minus that "
        f"of their twins at the last position, with the norms of the learned v{means}. The chosen heads' v and both "
        f"draws at strengths (what they are multiplied by) {strengths}; elsewhere 1. Measured on examples of other "
        "groups. Heads in common: p and band if heads were exchangeable within layers (exact). "
        f"Neutral text: {len(learned.documents)} passages of novels under the same edits."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Scales of two seeds, and offsets for the heads that they choose and for others. UserError: options."""
    require(subject, options)
    half, groups = chosen_half(subject, batches, "lofit")
    prompts = Prompts([example for batch in half for example in batch.examples], half[0].form)
    scales = [learned_scales(subject, prompts, options, seed) for seed in (0, 1)]
    strengths = [strengths_of(subject, scale) for scale in scales]
    ours, second = (sorted(strongest(one, count_of(subject, options))) for one in strengths)
    sets = [
        (name, [[*head] for head in heads], _told(values))
        for name, heads, values in offsets_of(subject, prompts, ours, second, options)
    ]
    lengths = [_told(one) for one in strengths]
    learned = Learned(_told(scales[0]), lengths, sets, len(prompts.examples), selected_on=groups)
    documents, losses = neutral_losses(subject, edits_of(learned), options)
    return learned._replace(documents=documents, losses=losses)


def _told(values: Tensor) -> list[Any]:
    """Short in the record."""
    return values.double().mul(1e5).round().div(1e5).tolist()


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """ "moved" [b, h]: how far the learned scale moves each head's output."""
    return {"moved": moved(layer, batch, how.learned.scale) if layer.attends else None}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_lofit_rows.under_edits`; NaN for examples of the groups that it was learned from."""
    other = changed(subject, batch, lambda example: None if example.group in how.learned.selected_on else example)
    if other is None:
        return kept
    rows = under_edits(subject, other.batch, how.learned, how.options)
    return kept | {name: other.spread(values) for name, values in rows.items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    swept = len(options.strengths) * (1 + len(CONTROLS) * options.draws)
    return subject.n_layers * subject.n_heads + len(READ) * (len(EDITS) + swept)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: a step's graph, the moments of Adam; the vocabulary at neutral text."""
    weights = 4 * 5 * subject.n_layers * subject.n_heads * subject.d_head
    read = costs.logits(subject, 8 * TOKENS, 3) if options.neutral else 0
    return weights + max(costs.gradient(subject, options.batch, positions), read)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The statements: by the table tested, and of two seeds by their exact null."""
    chosen, neutral = judged(tables.get("tested"), (CLAIMS[0], CLAIMS[2]))
    return [chosen, _seeds(one_row(tables.get("overlap"), pair=TWO_SEEDS)), neutral]


def _seeds(row: Any) -> Claim:
    if row is None:
        return judge(CLAIMS[1], None)
    note = (
        f"{row['common']} of {row['heads']} heads in common, {row['expected'] * row['heads']:.1f} expected of {DEPTH}"
    )
    return judge(
        CLAIMS[1],
        above_depth(row),
        p_value=float(row["p_value"]),
        note=f"{note}, p = {row['p_value']:.2g}; minus these",
    )
