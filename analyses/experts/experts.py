"""Experts of a mixture: which tokens go to which, how evenly, and what texts lose without those of their label

Load of every expert, by label; experts that no token goes to, against the number of tokens; entropy of the gates and
of their mean; overlap of the labels' busiest experts; the loss of each label's texts without the experts of each.
Tables: load, never, entropy, overlap, experts, removal, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import SubjectError, UserError
from ...probes.observe.routing import n_experts, routers
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.frames import held_out
from ..common.losses import scored
from ..common.tested import judged
from ._expert_choice import MOST, labels_in, loads, specific, twins
from ._expert_findings import findings
from ._expert_rows import HOW, removed, routed_rows
from ._expert_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 2
QUESTION = "Which experts does each kind of text use, and does it need them?"
PAPER = "a note on expert contributions in mixtures (OLMoE), style"
FIT_EXAMPLES = 128
CLAIMS = (
    Statement(
        "few experts never active",
        "With all texts of this run fewer than 60 % of the experts have no token. Beside it one text alone, where by "
        "arithmetic no fewer have none: that margin cannot fail, and only tells how far the share depends on how many "
        "tokens are read.",
        "a note on expert contributions (OLMoE on MMLU: over 60 % never active), style; turned round by this project",
        0.6,
        "below",
    ),
    Statement(
        "experts of one label",
        "Labels have experts of their own: chosen on other texts, the experts of a text's label get a share of its "
        "tokens that is larger by more than .1 than that of the experts of other labels, and by more than with labels "
        "permuted over groups.",
        "a note on expert contributions (OLMoE), style, held out and with this project's threshold",
        0.1,
    ),
    Statement(
        "removal hurts its label",
        "Without the experts of their label texts lose more than without those of another label (difference of the "
        "loss above 0 nats a token), and more so than for random experts of like load.",
        "a note on expert contributions (OLMoE), style: removal in place of accuracy by expert",
    ),
)


@dataclass(frozen=True)
class Options:
    """share: of all experts are taken to be of a label, those whose load is above the others' by most. draws: of
    random experts. positions: tokens whose loss is read. removal: whether experts are taken out. by: the column of the
    examples that labels them; by default their label, else their kind.
    """

    share: float = 0.02
    draws: int = 2
    positions: int = 32
    removal: bool = True
    by: str = ""


class Learned(NamedTuple):
    """k: experts chosen for a token. labels; for each the experts (layer, expert) that its held-out texts go to more
    than those of other labels; random: for each draw the same of their twins.
    """

    k: int = 0
    labels: Sequence[str] = ()
    specific: Sequence[Sequence[Sequence[int]]] = ()
    random: Sequence[Sequence[Sequence[Sequence[int]]]] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Each router chooses {learned.k} experts for a token; those that all tokens share are not counted. Tokens: of "
        "text, without each example's first. Load: share of tokens for which an expert is chosen. Gates: softmax of "
        "all of a router's logits, also in families that weigh otherwise. Intervals of load and loss: over groups; "
        "else about 20 folds of groups, left out one at a time (where none changes a share, the exact one of as many "
        "folds). "
        f"Experts of a label: the {options.share:.0%} of all (at least one) whose load in its texts is above the mean "
        f"of the other labels' by most, chosen on {held_out(fitted_on)}. Taken out: the weight of the expert is 0, "
        "those of a token's other chosen experts grow by one factor, so that their sum stays; no further expert comes "
        "in. Random experts: of the same layers, of no label, each one of the 3 nearest in load on the label's "
        f"held-out tokens ({options.draws} draws). Experts shuffled at each token: the same gates, each expert as "
        f"likely as any. Loss: of the next token at {options.positions} evenly spaced places, or of the answer."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The experts of each label of held-out examples, and their twins. UserError: options, labels, no experts."""
    _require(options)
    known = _routers(subject)
    labels = labels_in([example for batch in batches for example in batch.examples], options.by)
    k = int(next(iter(known.values())).top_k)
    if not labels:
        return Learned(k)
    load = loads(subject, batches, labels, options.by)
    count = max(1, round(options.share * sum(map(n_experts, known.values()))))
    chosen = specific(load, count)
    return Learned(k, labels, chosen, [twins(load, chosen, draw) for draw in range(options.draws)])


def _routers(subject: Any) -> dict[int, Any]:
    try:
        known = routers(subject)
    except SubjectError as error:
        raise UserError(
            f"experts needs a mixture of experts (Mixtral, Qwen3-MoE, OLMoE, GPT-OSS, Granite-MoE, DeepSeek): {error}"
        ) from error
    if len({(n_experts(one), one.top_k) for one in known.values()}) > 1:
        raise UserError(f"experts: the layers of {subject.family} have different numbers of experts")
    return known


def _require(options: Options) -> None:
    if not 0 < options.share < 1:
        raise UserError(f"--experts.share {options.share}: a share between 0 and 1 is needed")
    for name in ("draws", "positions"):
        if getattr(options, name) < 1:
            raise UserError(f"--experts.{name} {getattr(options, name)}: at least 1 is needed")


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_expert_rows`: one forward that is watched, and one for each set of experts that is taken out."""
    asked = scored(batch, how.options.positions)
    rows, clean = routed_rows(subject, batch, asked)
    if not how.options.removal or not len(how.learned.labels):
        return rows
    return rows | {"clean": clean, "removed": removed(subject, batch, clean, asked, how.learned)}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 2 + MOST * len(HOW) + subject.n_layers * (1 + 3 * _width(subject))


def _width(subject: Any) -> int:
    return n_experts(next(iter(_routers(subject).values())))


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one more, gates of one layer, and the logits that are read."""
    gates = 4 * 4 * batch * positions * _width(subject)
    return costs.forward(subject, batch, positions) + gates + costs.logits(subject, batch * options.positions, 3)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
