"""Steering: a task repaired by pointing the heads that another task uses (an oracle).

Heads that route the answer in IOI are made to attend, at the last position, to the wrong options of the task at hand,
half to each of two (they move the answer away from what they read). It knows which options are wrong: an oracle, not a
method.

Beside it the task without its content gatherers (the heads that tell its movers where to look), and what its movers
attend to before and after the repair.

Tables: repair, gain, silent, looks, tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from ...data.tasks import ioi
from ...probes.intervene.paths import path_sweep
from ...probes.intervene.recording import Recording
from ...probes.intervene.sweep import variant_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from .. import metrics
from ..common import stats
from ..common.asked import every_head, require_counts, require_heads
from ..common.claims import Claim, Statement
from ..common.contrast import contrast, task_rows
from ..common.controls import DRAWS, HEADS, Head, random_circuits, random_positions
from ..common.option_logits import OptionLogits, is_right, lead
from ..common.selection import chosen_half
from ..common.tested import judged
from ._gatherer_tables import GATHERERS, LOOK
from ._gatherers import looks, movers_and_gatherers, without
from ._movers import queries_of
from ._steered import steer_attention, steered
from ._steering_findings import findings
from ._steering_methods import FIT_EXAMPLES, methods
from ._steering_tables import BORROWED, OWN, SETS, TABLES, TOKENS

__all__ = ["TABLES", "claims", "findings", "methods", "steer_attention"]

VERSION = 5
QUESTION = "Can the heads that do one task repair another, when they are told what to look at?"
PAPER = "arXiv 2310.08744, the intervention on Colored Objects"

CLAIMS = (
    Statement(
        BORROWED,
        "Steering the heads that IOI uses repairs the task: accuracy rises above the model's own, by more than with "
        "either control. An oracle.",
        PAPER,
        paper=0.937 - 0.496,  # GPT-2 medium
    ),
    Statement(
        OWN,
        "Steering the heads found on this task repairs it: accuracy rises above the model's own, by more than with "
        "either control. An oracle.",
        PAPER,
    ),
    Statement(
        LOOK,
        "Steering the heads that IOI uses turns the movers of this task to the answer: the last position's attention "
        "on the answer's token in them is higher than before, and than with random heads steered. An oracle.",
        PAPER,
    ),
    Statement(
        GATHERERS,
        "The task needs its content gatherers: with the heads silent that tell the movers where to look, accuracy "
        "falls below the model's own, and below that with random heads silent.",
        PAPER,
        side="below",
        paper=-0.146,  # GPT-2 medium: 49.6 to 35 %
    ),
)


@dataclass(frozen=True)
class Options:
    """targets: the mark of the wrong options. inhibition, negative, own: how many heads of each kind. draws: random
    draws of each control. gatherers: how many content gatherers are made silent. heads: one text for each
    set, "12.3 14.0", found on held-out examples where None.
    """

    targets: str = "other_colors"
    inhibition: int = 3
    negative: int = 1
    own: int = 4
    gatherers: int = 3
    draws: int = DRAWS
    heads: tuple[str, ...] | None = None


class Learned(NamedTuple):
    """heads: one text for each set; selected_on: the groups of this task that its own heads come from; ioi: whether the
    model solves IOI, whose heads are borrowed. movers, gatherers: this task's own, "12.3 14.0", from the same groups.
    """

    heads: Sequence[str] = ()
    selected_on: Sequence[str] = ()
    ioi: bool = True
    movers: str = ""
    gatherers: str = ""


RETIRED = {"selected_on": (), "ioi": True}


def _heads(text: str) -> list[Head]:
    """ "12.3 14.0" as heads. UserError where it is something else."""
    try:
        return [(int(layer), int(head)) for layer, head in (word.split(".") for word in text.split())]
    except ValueError as error:
        raise UserError(f"steering: {text!r} names no heads; write layer.head with spaces between them") from error


def _targets(batch: Batch, options: Options) -> Bool[Tensor, "b p"]:
    if options.targets not in batch.marks:
        raise UserError(
            f"steering: the task has no mark {options.targets!r}; it has {', '.join(batch.marks) or 'none'} "
            "(--steering.targets)"
        )
    return batch.marks[options.targets]


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The four sets of heads: three from IOI, one from held-out examples of this task's one half."""
    _require(subject, options)
    if options.heads is not None:
        return Learned(options.heads)
    _targets(batches[0], options)
    half, groups = chosen_half(subject, batches, "steering")
    (inhibition, negative), solved = _from_ioi(subject, options)
    sets = [inhibition, negative, sorted({*inhibition, *negative}), _from_this(subject, half, options)]
    sets += movers_and_gatherers(subject, half, options.gatherers)
    *heads, writing, gathering = (" ".join(f"{layer}.{head}" for layer, head in one) for one in sets)
    return Learned(heads, groups, solved, writing, gathering)


def _require(subject: Any, options: Options) -> None:
    require_counts("steering", options, inhibition=1, negative=1, own=1, gatherers=0, draws=1)
    if options.heads is None:
        return
    if len(options.heads) != len(SETS):
        raise UserError(
            f"--steering.heads: {len(options.heads)} texts; it needs {len(SETS)}, one for each of {', '.join(SETS)}"
        )
    for name, text in zip(SETS, options.heads, strict=True):
        if not text.split():
            raise UserError(f"--steering.heads: no head for {name}; write layer.head with spaces between them")
        require_heads("steering.heads", _heads(text), subject)


def _from_ioi(subject: Any, options: Options) -> tuple[tuple[list[Head], list[Head]], bool]:
    """Inhibition heads and negative movers on IOI, and whether it is solved."""
    batch = subject.batch(
        ioi.examples(FIT_EXAMPLES, 1, tokenizer=subject.tokenizer), template=ioi.TEMPLATE, bos=ioi.BOS
    )
    found = contrast(subject, batch, ("z",))
    solved = _is_solved(batch, task_rows(found))
    effects = path_sweep(subject, found.base, found.donor, measure=found.measure).effects.mean(0)
    ranked = metrics.top_heads(effects, 1.0)
    movers = [head for head in ranked if effects[head] < 0][: options.inhibition]
    negative = [head for head in ranked if effects[head] > 0][: options.negative]
    receivers = queries_of(movers, subject.decoder.attending[0])
    if not receivers:
        why = "they lie in the first layer with heads"
        raise UserError(f"steering: no head speaks to IOI's movers: {why} (--steering.heads chooses others)")
    both = {"measure": found.measure, "positions": found.base.final}
    through = path_sweep(subject, found.base, found.donor, receivers, **both).effects.mean(0)
    others = [head for head in metrics.top_heads(through, 1.0) if head not in {*movers, *negative}]
    return (others[: options.inhibition], negative), solved


def _is_solved(batch: Batch, rows: dict[str, Tensor]) -> bool:
    """Accuracy above guessing and clean above corrupt, by intervals over groups."""
    groups = [example.group for example in batch.examples]
    gaps = (rows["right"] - rows["guessing"], rows["clean"] - rows["donor"])
    return all(bool(stats.group_bootstrap(gap.numpy(), groups).lower > 0) for gap in gaps)


def _from_this(subject: Any, batches: Sequence[Batch], options: Options) -> list[Head]:
    """The heads that help most when each is steered alone."""
    heads = every_head(subject)
    gains = []
    for batch in batches:
        found = contrast(subject, batch, ("z",))
        variants = [steered(found.base, [head], _targets(batch, options)) for head in heads]
        sweep = variant_sweep(
            found.base, variants, found.base.final, measure=OptionLogits(found.answers, found.options)
        )
        gains.append(lead(sweep.values) - lead(sweep.clean))
    order = torch.cat(gains, -1).mean(-1).argsort(descending=True, stable=True)[: options.own].tolist()
    return sorted(heads[i] for i in order)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Per set of heads and control: logit difference and whether the answer wins, [b, sets] or [b, sets, draws]; NaN
    where a set has no random heads.
    """
    found = contrast(subject, batch, ("z",))
    base, targets = found.base, _targets(batch, how.options)
    sets = [_heads(text) for text in how.learned.heads]
    elsewhere = [_random_tokens(batch, base, targets, draw) for draw in range(how.options.draws)]
    drawn = [random_circuits(heads, subject.n_heads, how.options.draws) for heads in sets]
    asked = {
        "steered": [[(heads, targets)] for heads in sets],
        HEADS: [[(heads, targets) for heads in several] for several in drawn],
        TOKENS: [[(heads, tokens) for tokens in elsewhere] for heads in sets],
    }
    flat = [variant for several in asked.values() for one in several for variant in one]
    sweep = variant_sweep(
        base,
        [steered(base, *variant) for variant in flat],
        base.final,
        measure=OptionLogits(found.answers, found.options),
    )
    kept = task_rows(found)
    for name, of in (("difference", lead), ("right", is_right)):
        kept[f"{name}|clean"], values = of(sweep.clean), iter(of(sweep.values))
        for control, several in asked.items():
            draws = [[next(values) for _ in one] for one in several]
            kept[f"{name}|{control}"] = _together(draws, (len(targets), how.options.draws))
        kept[f"{name}|steered"] = kept[f"{name}|steered"][..., 0]
    kept |= looks(base, batch, _heads(how.learned.movers), sets[SETS.index(BORROWED)], targets)
    return kept | without(found, _heads(how.learned.gatherers), how.options.draws)


def _together(draws: list[list[Tensor]], shape: tuple[int, int]) -> Tensor:
    """[b, sets, draws] of [b] for each draw of each set; NaN where a set has none."""
    return torch.stack([torch.stack(one, -1) if one else torch.full(shape, torch.nan) for one in draws], 1)


def _random_tokens(batch: Batch, base: Recording, targets: Tensor, draw: int) -> Bool[Tensor, "b p"]:
    """As many other tokens as there are targets."""
    keys = [f"{name} {draw}" for name in batch.example_ids]
    return random_positions(targets, base.mask.cpu() & ~base.final.cpu(), keys)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 2 * len(SETS) * (1 + 2 * options.draws) + 2 * options.draws + 18


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded, and a vector in every layer in turn."""
    several = costs.variants(subject, subject.n_layers, batch, positions, positions)
    return 2 * costs.recording(subject, batch, positions) + several


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's repair, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
