"""Steering: a task repaired by pointing the heads that another task uses (an oracle).

Heads that route the answer in IOI are made to attend, at the last position, to the wrong options of the task at hand,
half to each of two (they move the answer away from what they read). It knows which options are wrong: an oracle, not a
method. Tables: repair, gain; see `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from ..data import ioi
from ..data.example import NothingToMeasure, UserError
from ..probes.batch import Batch
from ..probes.measures import Measure
from ..probes.paths import Receiver, path_sweep
from ..probes.replay import Put, Recording, Variant
from ..probes.rows import Rows
from ..probes.sweep import Inputs, Sweep, recorded, variant_sweep
from . import metrics
from .claims import Claim, verdict
from .contrast import Contrast, contrast, half_of, task_rows
from .frames import held_out, order_columns, summarise

VERSION = 1
QUESTION = "Can the heads that do one task repair another, when they are told what to look at?"
PAPER = "arXiv 2310.08744, the intervention on Colored Objects"
FIT_EXAMPLES = 32
HEADS, TOKENS = "random heads of the same layers", "random other tokens"
SETS = ("inhibition heads", "negative mover", "both", "found on this task")

Head = tuple[int, int]


@dataclass(frozen=True)
class Options:
    """targets: the mark of the wrong options. inhibition, negative, own: how many heads of each kind. draws: random
    draws of each control. heads: one text for each set, "12.3 14.0", found on held-out examples where None;
    selected_on: the groups of this task that its own heads come from.
    """

    targets: str = "other_colors"
    inhibition: int = 3
    negative: int = 1
    own: int = 4
    draws: int = 20
    heads: tuple[str, ...] | None = None
    selected_on: tuple[str, ...] = ()


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    sets = "; ".join(f"{name}: {heads}" for name, heads in zip(SETS, options.heads or (), strict=False))
    return (
        "An oracle: it is told which options are wrong. At the last position the chosen heads' attention is put on the "
        f"tokens of {options.targets}, evenly. Heads ({sets}): inhibition heads have the largest effect on the path to "
        "the queries of IOI's movers, the negative mover the largest one that raises the answer when patched, on "
        f"{FIT_EXAMPLES} IOI prompts; those found on this task raise its logit difference most when steered alone, on "
        f"one half of the groups of {held_out(fitted_on)}. Only examples of other groups are scored. Controls: as many "
        f"random heads of the same layers with the same targets, and the same heads with as many random other tokens "
        f"({options.draws} draws each)."
    )


@torch.no_grad()
def steer_attention(
    subject: Any, inputs: Inputs, heads: Sequence[Head], targets: Bool[Tensor, "b p"], *, measure: Measure
) -> Sweep:
    """The measure [1, b] when `heads` attend, at the last position, to nothing but `targets`, evenly; clean [b].

    inputs: a batch, model inputs, or a recording with z. Exact, and proved to take effect. UserError: a head that does
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


def fit(subject: Any, batches: list[Batch], options: Options) -> dict[str, Any]:
    """The four sets of heads: three from IOI, one from held-out examples of this task's one half."""
    if options.heads is not None:
        return {"heads": options.heads, "selected_on": options.selected_on}
    _targets(batches[0], options)
    chosen, names = half_of(subject, batches, "steering")
    inhibition, negative = _from_ioi(subject, options)
    own = _from_this(subject, chosen, options)
    sets = [inhibition, negative, sorted({*inhibition, *negative}), own]
    heads = [" ".join(f"{layer}.{head}" for layer, head in one) for one in sets]
    return {"heads": heads, "selected_on": names}


def _from_ioi(subject: Any, options: Options) -> tuple[list[Head], list[Head]]:
    """Inhibition heads and negative movers on IOI."""
    batch = subject.batch(
        ioi.examples(FIT_EXAMPLES, 1, tokenizer=subject.tokenizer), template=ioi.TEMPLATE, bos=ioi.BOS
    )
    found = contrast(subject, batch, ("z",))
    direct = path_sweep(subject, found.base, found.donor, measure=found.measure)
    effects = (direct.values - direct.clean).mean(-1)
    ranked = metrics.top_heads(effects, 1.0)
    movers = [head for head in ranked if effects[head] < 0][: options.inhibition]
    negative = [head for head in ranked if effects[head] > 0][: options.negative]
    receivers = [Receiver(layer, head, "q") for layer, head in movers if layer > 0]
    both = {"measure": found.measure, "positions": found.base.final}
    routed = path_sweep(subject, found.base, found.donor, receivers, **both)
    through = (routed.values - routed.clean).mean(-1)
    others = [head for head in metrics.top_heads(through, 1.0) if head not in {*movers, *negative}]
    return others[: options.inhibition], negative


def _from_this(subject: Any, batches: Sequence[Batch], options: Options) -> list[Head]:
    """The heads that help most when each is steered alone."""
    heads = [(layer, head) for layer in range(subject.n_layers) for head in range(subject.n_heads)]
    gain = torch.cat([_gains(subject, batch, heads, options) for batch in batches], -1).mean(-1)
    order = gain.argsort(descending=True, stable=True)[: options.own].tolist()
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


def rows(subject: Any, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Per set of heads and control: logit difference and whether the answer wins, [b, sets] or [b, sets, draws]."""
    found = contrast(subject, batch, ("z",))
    base, targets = found.base, _targets(batch, options)
    sets = [_heads(text) for text in options.heads or ()]
    generator = torch.Generator().manual_seed(0)
    variants = [steered(base, heads, targets) for heads in sets]
    for heads in sets:
        variants += [steered(base, _random_heads(heads, subject, generator), targets) for _ in range(options.draws)]
    for heads in sets:
        variants += [steered(base, heads, _random_tokens(batch, base, targets, i)) for i in range(options.draws)]
    sweep = variant_sweep(base, variants, base.final, measure=_Options(found))
    kept = task_rows(found) | {"scored": torch.tensor([e.group not in options.selected_on for e in batch.examples])}
    for name, of in (("difference", _difference), ("right", _right)):
        kept[f"{name}|clean"] = of(sweep.clean)
        own, *controls = of(sweep.values).split([len(sets), *[len(sets) * options.draws] * 2])
        kept[f"{name}|steered"] = own.T.contiguous()
        for control, values in zip((HEADS, TOKENS), controls, strict=True):
            kept[f"{name}|{control}"] = values.unflatten(0, (len(sets), options.draws)).permute(2, 0, 1).contiguous()
    return kept


def _right(logits: Tensor) -> Tensor:
    return (logits[..., :1] > logits[..., 1:]).all(-1).float()


def _random_heads(heads: Sequence[Head], subject: Any, generator: torch.Generator) -> list[Head]:
    """As many other heads of each layer where the layer has enough of them."""
    drawn: list[Head] = []
    for layer in sorted({layer for layer, _ in heads}):
        mine = [head for one, head in heads if one == layer]
        rest = [head for head in range(subject.n_heads) if head not in mine]
        pool = rest if len(rest) >= len(mine) else list(range(subject.n_heads))
        order = torch.randperm(len(pool), generator=generator)[: len(mine)].tolist()
        drawn += [(layer, pool[i]) for i in order]
    return drawn


def _random_tokens(batch: Batch, base: Recording, targets: Tensor, draw: int) -> Bool[Tensor, "b p"]:
    """As many other tokens as there are targets; drawn by example id, so that no batching changes them."""
    chosen = torch.zeros_like(targets)
    free = base.mask.cpu() & ~targets & ~base.final.cpu()
    for i, name in enumerate(batch.example_ids):
        places = free[i].nonzero()[:, 0]
        seed = crc32(f"{name} {draw}".encode())
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        chosen[i, places[order[: int(targets[i].sum())]]] = True
    return chosen


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 2 * len(SETS) * (1 + 2 * options.draws) + 8


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """repair: set control measure ("accuracy", "logit difference") value lower upper …, control "" with set "nothing
    steered" is the model as it is. gain: set control measure value …: steered minus not, and minus the mean of the
    draws of each control, example by example. draws: of the controls.
    """
    frames: dict[str, list[pd.DataFrame]] = {"repair": [], "gain": []}
    for condition, all_rows in rows.conditions():
        mine = all_rows.where(all_rows["scored"].astype(bool))
        if not len(mine.examples):
            raise NothingToMeasure("no example is left in the groups that heads were not chosen on: raise --limit")
        for name, unit, label in (("right", "share", "accuracy"), ("difference", "logits", "logit difference")):
            for table, made in zip(frames, (_repair(mine, name, unit, options), _gain(mine, name, unit)), strict=True):
                frames[table].append(made.assign(condition=condition, measure=label))
    return {name: order_columns(pd.concat(parts, ignore_index=True)) for name, parts in frames.items()}


def _repair(rows: Rows, name: str, unit: str, options: Options) -> pd.DataFrame:
    groups = rows.examples["group"]
    parts = [summarise(rows[f"{name}|clean"], groups, {}, unit).assign(set="nothing steered", control="", draws=1)]
    if name == "right":
        parts.append(summarise(rows["guessing"], groups, {}, unit).assign(set="guessing", control="", draws=1))
    parts.append(summarise(rows[f"{name}|steered"], groups, {"set": SETS}, unit, control="", draws=1))
    for control in (HEADS, TOKENS):
        mean = rows[f"{name}|{control}"].mean(2)
        parts.append(summarise(mean, groups, {"set": SETS}, unit, control=control, draws=options.draws))
    return pd.concat(parts, ignore_index=True)


def _gain(rows: Rows, name: str, unit: str) -> pd.DataFrame:
    groups, own = rows.examples["group"], rows[f"{name}|steered"]
    against = {"nothing steered": np.broadcast_to(rows[f"{name}|clean"][:, None], own.shape)}
    against |= {control: rows[f"{name}|{control}"].mean(2) for control in (HEADS, TOKENS)}
    parts = []
    for than, other in against.items():
        frame = summarise(own - other, groups, {"set": SETS}, unit)
        draws = rows[f"{name}|{than}"].mean(0) if f"{name}|{than}" in rows.values else None
        better = np.nan if draws is None else (own.mean(0)[:, None] > draws).mean(1)
        parts.append(frame.assign(than=than, beats=better))
    return pd.concat(parts, ignore_index=True)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's repair; thresholds set before any number was seen."""
    gain = tables["gain"]
    gain = gain[(gain["measure"] == "accuracy") & (gain["condition"] == gain["condition"].iloc[0])]
    repair = tables["repair"].set_index(["measure", "set", "control"])["value"]
    found = []
    for name in ("both", "found on this task"):
        rows = gain[gain["set"] == name].set_index("than")
        first, rest = rows.loc["nothing steered"], rows.loc[[HEADS, TOKENS]]
        text = (
            f"Steering repairs the task ({name}): accuracy rises above the model's own, and above both controls "
            "(intervals above 0). An oracle."
        )
        numbers = (
            f"accuracy {repair['accuracy', 'nothing steered', '']:.2f} → {repair['accuracy', name, '']:.2f}; gain "
            f"{first['value']:+.2f} [{first['lower']:+.2f}, {first['upper']:+.2f}], over random heads "
            f"{rest.loc[HEADS, 'value']:+.2f} [{rest.loc[HEADS, 'lower']:+.2f}, {rest.loc[HEADS, 'upper']:+.2f}], over "
            f"random tokens {rest.loc[TOKENS, 'value']:+.2f} [{rest.loc[TOKENS, 'lower']:+.2f}, "
            f"{rest.loc[TOKENS, 'upper']:+.2f}], n = {first['n']}"
        )
        holds = first["lower"] > 0 and bool((rest["lower"] > 0).all())
        found.append(Claim(text, PAPER, numbers, verdict(holds, bool(first["upper"] < 0 or (rest["upper"] < 0).any()))))
    return found


__all__ = ["Options", "steer_attention", "steered"]
