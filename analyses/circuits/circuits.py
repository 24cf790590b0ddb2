"""Circuits: which heads and MLPs carry a task, what they read, and what they write.

Every head's and MLP's output at the last position is replaced by the one of the corrupt twin, exactly; then only the
path from a head to the final residual, and to the queries of the heads that write the answer (movers), with all other
heads frozen. Beside them: direct logit attribution, attention of the last position to named tokens, and how well
gradient estimates agree with the exact effects. Where asked for, two stages farther back: paths to the values of the
heads that the movers hear, and to the keys and values of the heads that those hear. Heads are chosen on one half of the
groups and measured on the other.

Tables: task, effects, circuit, needed, looked, agreement, stability, tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.direct_attribution import direct_attribution
from ...probes.intervene.paths import path_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.agreement import ESTIMATES, exact_and_estimates
from ..common.asked import require_counts, require_heads, require_share
from ..common.claims import Claim, Statement
from ..common.contrast import PARTS, contrast, task_rows
from ..common.selection import chosen_half
from ..common.tested import judged
from ._circuit_findings import findings
from ._circuit_methods import methods
from ._circuit_tables import ALIKE, ATTENTION, DIRECT, EXACT, KEYS_VALUES, LOGITS, MOVERS, SPARSE_BAR, TABLES, VALUES
from ._looked import attention_on_marks, uniform_on_marks
from ._movers import heard_by, movers, parts_of, queries_of

__all__ = ["TABLES", "claims", "findings", "methods"]

VERSION = 7
QUESTION = "Which heads and MLPs carry the task, and what does each of them do?"
PAPER = "arXiv 2310.08744 (circuit component reuse), arXiv 2211.00593 (path patching)"
FIT_EXAMPLES = 32

CLAIMS = (
    Statement(
        "solved",
        "The model solves the task: its accuracy among the options is above guessing.",
        "what a circuit presupposes",
    ),
    Statement(
        "twins differ",
        "The twin takes the answer away: the logit difference of the clean prompt is above the corrupt one's.",
        "what a circuit presupposes",
    ),
    Statement(
        "sparse",
        "A few heads carry the task: the top 2 % hold more than a third of the summed |effect| at the last position "
        "(heads and signs from one half of the groups, the share from the other).",
        "arXiv 2211.00593, 2310.08744",
        SPARSE_BAR,
    ),
    Statement(
        "nine tenths",
        "Nine tenths of the effect lie in few heads: the top 5 % hold more than 0.9 of the summed |effect| at the last "
        "position (heads and signs from one half of the groups, the share from the other).",
        "arXiv 2409.01659 (arithmetic), in its manner",
        0.9,
    ),
    Statement(
        "movers",
        "The heads that write the answer attend to it: those of the circuit that help on the path to the output put "
        "more than 0.2 of the last position's attention on the answer's token.",
        "arXiv 2211.00593",
        0.2,
    ),
    Statement(
        "gradients",
        "Integrated gradients agree with exact patching better than one gradient does (Spearman over heads).",
        "arXiv 2403.17806",
    ),
)


@dataclass(frozen=True)
class Options:
    """share: of all heads that a stage puts into the circuit. movers: how many heads count as movers.

    mover_attention, inhibition_attention: a head of the circuit is named by what the last position attends to in it:
    mover or negative mover from this share on the answer's token, inhibition head from this share on the wrong
    option's. heads: the movers, (layer, head); found on held-out examples where None. steps: whether gradients are
    asked too. further: whether the two stages behind the movers' queries are measured too: the path to the values of
    the inhibition heads (those that the movers' queries hear) and to the keys and values of the induction heads (those
    that these values hear). It takes several times as long.
    """

    share: float = 0.02
    movers: int = 3
    mover_attention: float = 0.2
    inhibition_attention: float = 0.2
    heads: tuple[tuple[int, int], ...] | None = None
    steps: bool = True
    further: bool = False


class Learned(NamedTuple):
    """heads: the movers, (layer, head); selected_on: the groups that they come from, none where they were given.
    inhibition, induction: as many heads that they hear, and that those hear; where the stages are asked for.
    """

    heads: Sequence[Sequence[int]] = ()
    selected_on: Sequence[str] = ()
    inhibition: Sequence[Sequence[int]] = ()
    induction: Sequence[Sequence[int]] = ()


RETIRED = {"selected_on": ()}


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The movers: the heads of largest |effect| on the path to the output, on held-out examples of one half; and who
    is heard by whom behind them.
    """
    _require(subject, options)
    if options.heads is not None and not options.further:
        return Learned([list(head) for head in options.heads])
    half, groups = chosen_half(subject, batches, "circuits")
    heads = movers(subject, half, options.movers) if options.heads is None else [list(head) for head in options.heads]
    return Learned(heads, groups, *(_behind(subject, half, heads, options.movers) if options.further else ()))


def _require(subject: Any, options: Options) -> None:
    require_share("circuits", options, "share")
    require_counts("circuits", options, movers=0)
    require_heads("circuits.heads", options.heads or (), subject)


def _behind(subject: Any, half: list[Batch], heads: list[list[int]], count: int) -> tuple[list[list[int]], ...]:
    """The heads that the movers' queries hear, and those that these heads' values hear."""
    first = subject.decoder.attending[0]
    inhibition = heard_by(subject, half, queries_of(heads, first), count, at_last=True)
    return inhibition, heard_by(subject, half, parts_of(inhibition, "v", first), count, at_last=False)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Effects [b, layer, head] and [b, layer], in logits; the task's own numbers [b]."""
    found = contrast(subject, batch)
    base, donor, measure = found.base, found.donor, found.measure
    last, estimates = base.final, ESTIMATES if how.options.steps else {}
    kept = task_rows(found) | exact_and_estimates(subject, found, last, EXACT, estimates)
    kept[f"head|{DIRECT}"] = path_sweep(subject, base, donor, measure=measure).effects
    if receivers := queries_of(how.learned.heads, subject.decoder.attending[0]):
        kept[f"head|{MOVERS}"] = path_sweep(subject, base, donor, receivers, measure=measure, positions=last).effects
    kept |= _farther_back(subject, found, how.learned) | _written(subject, found, base)
    return kept | _attention(subject, batch)


def _farther_back(subject: Any, found: Any, learned: Learned) -> dict[str, Tensor]:
    """Paths to the stages that were learned, at every position; nothing where none was."""
    first, kept = subject.decoder.attending[0], {}
    for stage, heads, parts in ((VALUES, learned.inhibition, "v"), (KEYS_VALUES, learned.induction, "kv")):
        if receivers := parts_of(heads, parts, first):
            sweep = path_sweep(subject, found.base, found.donor, receivers, measure=found.measure)
            kept[f"head|{stage}"] = sweep.effects
    return kept


def _written(subject: Any, found: Any, base: Any) -> dict[str, Tensor]:
    """Direct logit attribution where heads have a share of their own."""
    try:
        parts = direct_attribution(subject, base, found.measure)
    except UserError:
        return {}
    return {f"head|{LOGITS}": parts.heads.movedim(-1, 0), f"mlp|{LOGITS}": parts.mlps.movedim(-1, 0)}


def _attention(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """Attention of the last position on every mark, [b, layer, head], and what uniform attention gives it, [b]."""
    on, alike = attention_on_marks(subject, batch), uniform_on_marks(batch)
    return {f"head|{ATTENTION}{name}": found for name, found in on.items()} | {
        f"{ALIKE}{name}": found for name, found in alike.items()
    }


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return (12 if options.further else 10) * subject.n_layers * (subject.n_heads + 1) + 5


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded, and what asks most of heads in turn and gradients."""
    heads = costs.variants(
        subject, subject.n_layers * subject.n_heads, batch, positions if options.further else 1, positions
    )
    gradients = costs.gradient(subject, batch, positions) if options.steps else 0
    return 2 * costs.recording(subject, batch, positions, PARTS.values()) + max(heads, gradients)


# ---------------------------------------------------------------- claims


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of circuits, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
