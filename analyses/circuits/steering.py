"""Steering: a task repaired by pointing the heads that another task uses (an oracle).

Heads that route the answer in IOI are made to attend, at the last position, to the wrong options of the task at hand,
half to each of two (they move the answer away from what they read). It knows which options are wrong: an oracle, not a
method.

Tables: repair, gain, tested; see `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from ...data.tasks import ioi
from ...probes.intervene.measures import Measure
from ...probes.intervene.paths import Receiver, path_sweep
from ...probes.intervene.replay import Put, Recording, Variant
from ...probes.intervene.sweep import Inputs, Sweep, recorded, variant_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.claims import Claim, Statement
from ..common.contrast import Contrast, contrast, task_rows
from ..common.controls import DRAWS, HEADS, Head, random_circuits, random_positions
from ..common.frames import summarise
from ..common.selection import chosen_half, measured_rows
from ..common.tested import judged, number

VERSION = 3
QUESTION = "Can the heads that do one task repair another, when they are told what to look at?"
PAPER = "arXiv 2310.08744, the intervention on Colored Objects"
FIT_EXAMPLES = 32
TOKENS = "random other tokens"
SETS = ("inhibition heads", "negative mover", "both", "found on this task")
BORROWED, OWN = SETS[2:]

CLAIMS = (
    Statement(
        BORROWED,
        "Steering the heads that IOI uses repairs the task: accuracy rises above the model's own, by more than with "
        "either control. An oracle.",
        PAPER,
    ),
    Statement(
        OWN,
        "Steering the heads found on this task repairs it: accuracy rises above the model's own, by more than with "
        "either control. An oracle.",
        PAPER,
    ),
)


@dataclass(frozen=True)
class Options:
    """targets: the mark of the wrong options. inhibition, negative, own: how many heads of each kind. draws: random
    draws of each control. heads: one text for each set, "12.3 14.0", found on held-out examples where None.
    """

    targets: str = "other_colors"
    inhibition: int = 3
    negative: int = 1
    own: int = 4
    draws: int = DRAWS
    heads: tuple[str, ...] | None = None


class Learned(NamedTuple):
    """heads: one text for each set; selected_on: the groups of this task that its own heads come from; ioi: whether the
    model solves IOI, whose heads are borrowed.
    """

    heads: Sequence[str] = ()
    selected_on: Sequence[str] = ()
    ioi: bool = True


RETIRED = {"selected_on": (), "ioi": True}


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    sets = "; ".join(f"{name}: {heads}" for name, heads in zip(SETS, learned.heads, strict=False))
    return (
        "An oracle: it is told which options are wrong. At the last position the chosen heads' attention is put on the "
        f"tokens of {options.targets}, evenly. Heads ({sets}): inhibition heads have the largest effect on the path to "
        "the queries of IOI's movers, the negative mover the largest one that raises the answer when patched, on "
        f"{FIT_EXAMPLES} IOI prompts; those found on this task raise its logit difference most when steered alone, on "
        "held-out examples of one half of its groups. Only examples of the other half are scored. Controls: as many "
        f"other heads of the same layers with the same targets, and the same heads with as many random other tokens "
        f"({options.draws} draws each)."
    )


@torch.no_grad()
def steer_attention(
    subject: Any, inputs: Inputs, heads: Sequence[Head], targets: Bool[Tensor, "b p"], *, measure: Measure
) -> Sweep:
    """The measure [1, b] when `heads` attend, at the last position, to nothing but `targets`, evenly; clean [b].

    inputs: a batch, model inputs, or a recording with z. Exact, and proved to take effect; also where a target lies
    behind a sliding window, which the head alone would not see. UserError: a head that does
    not exist, an example without a target, a target that is the last position or padding.
    """
    base = recorded(subject, inputs, ("z",))
    last = base.final
    return variant_sweep(base, [steered(base, heads, targets)], last, measure=measure)


def steered(base: Recording, heads: Sequence[Head], targets: Bool[Tensor, "b p"]) -> Variant:
    """The same as a variant of a recorded run: what the heads would say is the mean of the targets' values.

    Values before the last position are those of the clean run, since nothing else is changed; so this is exact.
    """
    subject = base.subject
    last, targets = base.final, targets.to(base.mask.device)
    bare = (~targets.any(1)).nonzero()[:, 0].tolist()
    if bare:
        raise UserError(f"steering: example {bare[0]} of the batch has no target to attend to")
    if bool((targets & (last | ~base.mask)).any()):
        raise UserError("steering: a target is padding or the last position itself")
    weights = targets.float() / targets.sum(1, keepdim=True)
    variant: dict[int, list[Put]] = {}
    for layer, head in sorted(set(heads)):
        if not (0 <= layer < subject.n_layers and 0 <= head < subject.n_heads):
            raise UserError(f"steering: no head {layer}.{head} in {subject.n_layers} × {subject.n_heads} heads")
        kept = base.layers[layer]
        value = kept.value[:, head * kept.value.shape[1] // subject.n_heads]
        said = torch.einsum("bp,bpe->be", weights.to(value), value)
        z = said[:, None, None].expand(-1, 1, subject.n_heads, -1)
        variant.setdefault(layer, []).append(Put("z", last, z, (head,)))
    return variant


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
    if options.heads is not None:
        return Learned(options.heads)
    _targets(batches[0], options)
    half, groups = chosen_half(subject, batches, "steering")
    (inhibition, negative), solved = _from_ioi(subject, options)
    sets = [inhibition, negative, sorted({*inhibition, *negative}), _from_this(subject, half, options)]
    heads = [" ".join(f"{layer}.{head}" for layer, head in one) for one in sets]
    return Learned(heads, groups, solved)


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
    receivers = [Receiver(layer, head, "q") for layer, head in movers if layer > 0]
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
    heads = [(layer, head) for layer in range(subject.n_layers) for head in range(subject.n_heads)]
    gains = []
    for batch in batches:
        found = contrast(subject, batch, ("z",))
        variants = [steered(found.base, [head], _targets(batch, options)) for head in heads]
        sweep = variant_sweep(found.base, variants, found.base.final, measure=_Options(found))
        gains.append(_difference(sweep.values) - _difference(sweep.clean))
    order = torch.cat(gains, -1).mean(-1).argsort(descending=True, stable=True)[: options.own].tolist()
    return sorted(heads[i] for i in order)


def _gains(subject: Any, batch: Batch, heads: Sequence[Head], options: Options) -> Tensor:
    """What steering each head alone adds to the difference, [heads, b]."""
    found = contrast(subject, batch, ("z",))
    variants = [steered(found.base, [head], _targets(batch, options)) for head in heads]
    sweep = variant_sweep(found.base, variants, found.base.final, measure=_Options(found))
    return _difference(sweep.values) - _difference(sweep.clean)


class _Options:
    """A measure: the logits of the answer and of the wrong options, [n, 1 + m]; −∞ where an option is missing."""

    def __init__(self, found: Contrast) -> None:
        self.answers, self.options = found.answers, found.options

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        ids = torch.cat([self.answers[:, None], self.options], 1).to(logits.device)[rows.to(logits.device)]
        return logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)


def _difference(logits: Tensor) -> Tensor:
    """Answer − mean of the wrong options, [..., 1 + m] → [...]."""
    wrong = logits[..., 1:]
    there = wrong.isfinite()
    return logits[..., 0] - wrong.where(there, 0.0).sum(-1) / there.sum(-1)


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
    sweep = variant_sweep(base, [steered(base, *variant) for variant in flat], base.final, measure=_Options(found))
    kept = task_rows(found)
    for name, of in (("difference", _difference), ("right", _right)):
        kept[f"{name}|clean"], values = of(sweep.clean), iter(of(sweep.values))
        for control, several in asked.items():
            draws = [[next(values) for _ in one] for one in several]
            kept[f"{name}|{control}"] = _together(draws, (len(targets), how.options.draws))
        kept[f"{name}|steered"] = kept[f"{name}|steered"][..., 0]
    return kept


def _together(draws: list[list[Tensor]], shape: tuple[int, int]) -> Tensor:
    """[b, sets, draws] of [b] for each draw of each set; NaN where a set has none."""
    return torch.stack([torch.stack(one, -1) if one else torch.full(shape, torch.nan) for one in draws], 1)


def _right(logits: Tensor) -> Tensor:
    return (logits[..., :1] > logits[..., 1:]).all(-1).float()


def _random_tokens(batch: Batch, base: Recording, targets: Tensor, draw: int) -> Bool[Tensor, "b p"]:
    """As many other tokens as there are targets."""
    keys = [f"{name} {draw}" for name in batch.example_ids]
    return random_positions(targets, base.mask.cpu() & ~base.final.cpu(), keys)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 2 * len(SETS) * (1 + 2 * options.draws) + 8


MEASURES = {"accuracy": ("right", "share"), "logit difference": ("difference", "logits")}


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "steering")


def _repair(rows: Rows, how: How) -> pd.DataFrame:
    """Each set and control; control "" with set "nothing steered" is the model as it is."""
    scored = _scored(rows, how)
    return _there([_repaired(scored, *of, how.options).assign(measure=name) for name, of in MEASURES.items()])


def _gain(rows: Rows, how: How) -> pd.DataFrame:
    """Steered minus not, and minus the mean of the draws of each control, example by example; beats: the share of draws
    below the steered value.
    """
    scored = _scored(rows, how)
    return _there([_gained(scored, *of).assign(measure=name) for name, of in MEASURES.items()])


def _there(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows but those of controls that do not exist."""
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame["n"] > 0].reset_index(drop=True)


def _repaired(rows: Rows, name: str, unit: str, options: Options) -> pd.DataFrame:
    groups = rows.examples["group"]
    parts = [summarise(rows[f"{name}|clean"], groups, {}, unit).assign(set="nothing steered", control="", draws=1)]
    if name == "right":
        parts.append(summarise(rows["guessing"], groups, {}, unit).assign(set="guessing", control="", draws=1))
    parts.append(summarise(rows[f"{name}|steered"], groups, {"set": SETS}, unit, control="", draws=1))
    for control in (HEADS, TOKENS):
        mean = rows[f"{name}|{control}"].mean(2)
        parts.append(summarise(mean, groups, {"set": SETS}, unit, control=control, draws=options.draws))
    return pd.concat(parts, ignore_index=True)


def _gained(rows: Rows, name: str, unit: str) -> pd.DataFrame:
    groups, own, parts = rows.examples["group"], rows[f"{name}|steered"], []
    for than, (other, draws) in _others(rows, name).items():
        frame = summarise(own - other, groups, {"set": SETS}, unit)
        better = np.nan if draws is None else _share_below(draws, own)
        parts.append(frame.assign(than=than, beats=better))
    return pd.concat(parts, ignore_index=True)


def _others(rows: Rows, name: str) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """What steering is compared with: [n, sets], and its draws [n, sets, draws] where it has some."""
    clean = np.broadcast_to(rows[f"{name}|clean"][:, None], rows[f"{name}|steered"].shape)
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"nothing steered": (clean, None)}
    for control in (HEADS, TOKENS):
        draws = rows[f"{name}|{control}"]
        found[control] = draws.mean(2), draws
    return found


def _share_below(draws: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[sets]: the share of draws whose mean is below the steered one's; NaN where there are no draws."""
    means = draws.mean(0)
    return np.where(np.isnan(means).any(1), np.nan, (own.mean(0)[:, None] > means).mean(1))


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    """Accuracy steered minus not, and minus each control's."""
    rows = _scored(rows, how)
    own, groups, frames = rows["right|steered"], rows.examples["group"], []
    for name in (BORROWED, OWN):
        place = SETS.index(name)
        reason = "" if how.learned.ioi or name == OWN else "the model does not solve IOI, whose heads are borrowed"
        for than, (other, _) in _others(rows, "right").items():
            gap = own[:, place] - other[:, place]
            control = "" if than == "nothing steered" else than
            frames.append(number(name, gap, groups, "gain in accuracy", than=control, untestable=reason))
    return pd.concat(frames, ignore_index=True)


TABLES = {
    "repair": (_repair, ("set", "draws", "measure")),
    "gain": (_gain, ("set", "than", "beats", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's repair, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)


__all__ = ["Options", "steer_attention", "steered"]
