"""Circuits: which heads and MLPs carry a task, what they read, and what they write.

Every head's and MLP's output at the last position is replaced by the one of the corrupt twin, exactly; then only the
path from a head to the final residual, and to the queries of the heads that write the answer (movers), with all other
heads frozen. Beside them: direct logit attribution, attention of the last position to named tokens, and how well
gradient estimates agree with the exact effects. Heads are chosen on one half of the groups and measured on the other.

Tables: task, effects, circuit, agreement, stability, tested; see `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.attribution import attribution_sweeps
from ...probes.intervene.direct_attribution import direct_attribution
from ...probes.intervene.paths import Receiver, path_sweep
from ...probes.intervene.sweep import patch_sweep
from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.agreement import ESTIMATES, agreement_table, five_over_one
from ..common.claims import Claim, Statement
from ..common.contrast import PARTS, apart, contrast, task_rows, task_table, unsolved
from ..common.controls import HEADS, Head
from ..common.frames import head_axes, summarise
from ..common.selection import at, at_random, chosen_half, halves, measured
from ..common.tested import judged, nothing, number, share_above

VERSION = 4
QUESTION = "Which heads and MLPs carry the task, and what does each of them do?"
PAPER = "arXiv 2310.08744 (circuit component reuse), arXiv 2211.00593 (path patching)"
FIT_EXAMPLES = 32
EXACT, DIRECT, MOVERS = "patched at the last position", "path to the output", "path to the movers' queries"
STAGES = (EXACT, DIRECT, MOVERS)
LOGITS, ATTENTION = "direct logit attribution", "attention on "
UNNAMED = "not testable"  # a head that attends to the answer, of which nobody knows what it writes
SPARSE = 0.02

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
        1 / 3,
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
    asked too.
    """

    share: float = 0.02
    movers: int = 3
    mover_attention: float = 0.2
    inhibition_attention: float = 0.2
    heads: tuple[tuple[int, int], ...] | None = None
    steps: bool = True


class Learned(NamedTuple):
    """heads: the movers, (layer, head); selected_on: the groups that they come from, none where they were given."""

    heads: Sequence[Sequence[int]] = ()
    selected_on: Sequence[str] = ()


RETIRED = {"selected_on": ()}


# The marks of the tasks that hold the answer's token, and those of the option that is wrong (where the answer is marked
# as well: the subject of a fact is no option).
ANSWER = ("indirect_object", "asked_color", "answer")
WRONG = ("second_subject", "subject", "other_colors")


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Logit difference: answer minus the answer of the corrupt twin, at the last position. Effects are patched "
        "minus clean, in logits: a negative one means that the head carries the answer. A head's z (an MLP's "
        "output) at the last position is taken from the twin; on a path every other head's z is frozen to the clean "
        f"run and MLPs are computed again. The movers ({listed(learned.heads)}), whose queries are receivers, have the "
        f"largest |effect| on the path to the output on held-out examples of {len(learned.selected_on)} groups, of "
        f"{fitted_on['examples']} examples in all; the path to their queries is measured on the other groups. A "
        f"stage's circuit: the {options.share:.0%} of heads with the largest |effect| on one half of the groups, "
        "measured on the other."
    )


def listed(heads: Sequence[Sequence[int]]) -> str:
    """ "23.3, 29.1", or "none"."""
    return ", ".join(f"{layer}.{head}" for layer, head in heads) or "none"


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The movers: the heads of largest |effect| on the path to the output, on held-out examples of one half."""
    if options.heads is not None:
        return Learned([list(head) for head in options.heads])
    half, groups = chosen_half(subject, batches, "circuits")
    return Learned(movers(subject, half, options.movers), groups)


def movers(subject: Any, batches: Sequence[Batch], count: int) -> list[list[int]]:
    """The heads of largest |effect| on the path to the output, as [layer, head]."""
    effects = []
    for batch in batches:
        found = contrast(subject, batch)
        effects.append(path_sweep(subject, found.base, found.donor, measure=found.measure).effects)
    return [list(head) for head in metrics.top_heads(torch.cat(effects).mean(0), 1.0)[:count]]


def queries_of(heads: Sequence[Sequence[int]]) -> list[Receiver]:
    """Their queries as receivers; those of layer 0 hear no head."""
    return [Receiver(layer, head, "q") for layer, head in heads if layer > 0]


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Effects [b, layer, head] and [b, layer], in logits; the task's own numbers [b]."""
    found = contrast(subject, batch)
    base, donor, measure = found.base, found.donor, found.measure
    last = base.final
    both = {"measure": measure, "positions": last}
    kept = task_rows(found)
    for part, site in PARTS.items():
        kept[f"{part}|{EXACT}"] = patch_sweep(subject, base, donor, site, **both).effects
    kept[f"head|{DIRECT}"] = path_sweep(subject, base, donor, measure=measure).effects
    if receivers := queries_of(how.learned.heads):
        kept[f"head|{MOVERS}"] = path_sweep(subject, base, donor, receivers, **both).effects
    for name, steps in ESTIMATES.items() if how.options.steps else ():
        sweeps = attribution_sweeps(subject, base, donor, PARTS.values(), **both, steps=steps)
        kept |= {f"{part}|{name}": sweeps[site].effects for part, site in PARTS.items()}
    kept |= _written(subject, found, base)
    return kept | _attention(subject, batch)


def _written(subject: Any, found: Any, base: Any) -> dict[str, Tensor]:
    """Direct logit attribution where heads have a share of their own."""
    try:
        parts = direct_attribution(subject, base, found.measure)
    except UserError:
        return {}
    return {f"head|{LOGITS}": parts.heads.movedim(-1, 0), f"mlp|{LOGITS}": parts.mlps.movedim(-1, 0)}


def _attention(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """Attention of the last position on every mark, [b, layer, head]."""
    marks: dict[str, list[Tensor]] = {name: [] for name in batch.marks}

    def keep(layer: Layer) -> None:
        pattern = layer.pattern(batch.last[:, None])
        for name, where in batch.marks.items():
            marks[name].append(metrics.attention_share(pattern, where.to(pattern.device))[..., 0].cpu())

    with tracing(subject, keep):
        subject.forward(batch)
    return {f"head|{ATTENTION}{name}": torch.stack(found, 1) for name, found in marks.items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 10 * subject.n_layers * (subject.n_heads + 1) + 5


def _names(rows: Rows, part: str) -> list[str]:
    return [name.removeprefix(f"{part}|") for name in rows.values if name.startswith(f"{part}|")]


def _of(rows: Rows, measure: str, how: How) -> Rows:
    """The rows that a measure of heads is over: what the movers hear is not measured where they were chosen."""
    return rows.where(measured(rows.examples["group"], how.learned.selected_on)) if measure == MOVERS else rows


def _all_effects(rows: Rows, how: How) -> pd.DataFrame:
    """One row per head or MLP and measure."""
    frames = []
    for part in ("head", "mlp"):
        for name in _names(rows, part):
            mine = _of(rows, name, how)
            if len(mine.examples):
                frames.append(_effect(mine, part, name))
    return pd.concat(frames, ignore_index=True)


def _effect(rows: Rows, part: str, name: str) -> pd.DataFrame:
    values, groups = rows[f"{part}|{name}"], rows.examples["group"]
    unit = "attention" if name.startswith(ATTENTION) else "logits"
    frame = summarise(values, groups, head_axes(values), unit, part=part, measure=name)
    if unit == "attention" or name == LOGITS:
        return frame.assign(p_value=np.nan, normalized=np.nan)
    divisible = apart(rows["donor"] - rows["clean"], groups)
    normalized = _normalized(rows, values) if divisible else np.nan
    return frame.assign(p_value=stats.family_p(values, groups).ravel(), normalized=normalized)


def _normalized(rows: Rows, values: np.ndarray) -> np.ndarray:
    clean, donor = (torch.from_numpy(rows[name]) for name in ("clean", "donor"))
    return metrics.normalized_effect(torch.from_numpy(values).movedim(0, -1) + clean, clean, donor).numpy().ravel()


def _circuit(rows: Rows, how: How) -> pd.DataFrame | None:
    """The heads of every stage, chosen on one half, with all that the other half knows of them; see `named`."""
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    if not chosen.any():
        return None
    frames = []
    for stage in (stage for stage in STAGES if f"head|{stage}" in rows.values):
        chosen_on = rows[f"head|{stage}"][chosen].mean(0)
        for rank, head in enumerate(metrics.top_heads(torch.tensor(chosen_on), how.options.share), 1):
            frame = _known(rows.where(other), head)
            name = named(dict(zip(frame["measure"], frame["value"], strict=True)), how.options)
            names = {"stage": stage, "rank": rank, "layer": head[0], "head": head[1], "name": name}
            frames.append(frame.assign(**names, chosen_on=chosen_on[head]))
    return pd.concat(frames, ignore_index=True)


def _known(rows: Rows, head: Head) -> pd.DataFrame:
    """One head's effects, direct attribution and attention, a row each."""
    measures = _names(rows, "head")
    values = np.stack([rows[f"head|{name}"][(slice(None), *head)] for name in measures], 1)
    units = ["attention" if name.startswith(ATTENTION) else "logits" for name in measures]
    return summarise(values, rows.examples["group"], {"measure": measures}, "").assign(unit=units)


def named(head: Mapping[Any, float], options: Options) -> str:
    """A head's name by its numbers: "mover", "negative mover", "inhibition", or "" where no threshold is met.

    Mover: attention on the answer's token from `mover_attention`, and it writes towards the answer (negative mover:
    against it); "not testable" where its direct logit attribution is missing. Inhibition: attention on the wrong
    option's token from `inhibition_attention`, without being a mover. A task that does not mark the answer's token
    names no head.
    """
    on_answer, on_wrong = (_most(head, marks) for marks in (ANSWER, WRONG))
    if on_answer is None:
        return ""
    if on_answer >= options.mover_attention and (on_wrong is None or on_answer >= on_wrong):
        written = head.get(LOGITS, np.nan)
        return UNNAMED if np.isnan(written) else "mover" if written > 0 else "negative mover"
    return "inhibition" if on_wrong is not None and on_wrong >= options.inhibition_attention else ""


def _most(head: Mapping[Any, float], marks: Sequence[str]) -> float | None:
    """The largest attention on the marks that there are; None where there is none."""
    known = [head[ATTENTION + mark] for mark in marks if not np.isnan(head.get(ATTENTION + mark, np.nan))]
    return max(known, default=None)


def _agreement(rows: Rows, how: How) -> pd.DataFrame | None:
    return agreement_table(rows, EXACT)


def _stability(rows: Rows, how: How) -> pd.DataFrame | None:
    """Mean effects of every head on two halves of the groups: what noise leaves of an overlap."""
    frames = []
    for stage in (s for s in STAGES if f"head|{s}" in rows.values):
        mine = _of(rows, stage, how)
        values, groups = mine[f"head|{stage}"], mine.examples["group"]
        if groups.nunique() < 2:
            continue
        reliability = stats.split_half_correlation(values, groups)
        for index, half in enumerate(stats.split_half(groups), 1):
            mean = values[half].mean(0)
            layer, head = np.indices(mean.shape)
            cells = {"layer": layer.ravel(), "head": head.ravel(), "value": mean.ravel(), "n": int(half.sum())}
            frame = pd.DataFrame({**cells, "n_groups": groups[half].nunique(), "unit": "logits", "half": index})
            frames.append(frame.assign(measure=stage, reliability=reliability))
    return pd.concat(frames, ignore_index=True) if frames else None


# ---------------------------------------------------------------- claims


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups, reason = rows.examples["group"], unsolved(rows)
    frames = [
        share_above("solved", rows["right"], rows["guessing"], groups),
        number("twins differ", rows["clean"] - rows["donor"], groups, "logits"),
        *(_sparse(rows, how, reason) + _movers(rows, how, reason)),
    ]
    if (gain := five_over_one(rows, EXACT)) is not None:
        frames.append(pd.DataFrame([gain | {"claim": "gradients", "than": "", "untestable": reason}]))
    else:
        frames.append(nothing("gradients", "no gradients were asked for"))
    return pd.concat(frames, ignore_index=True)


def _sparse(rows: Rows, how: How, reason: str) -> list[pd.DataFrame]:
    """The top heads' share in Σ |effect|: each head's sign is the choosing half's, its effect the other's, so that
    noise adds nothing; and the same minus that of random heads of their layers.
    """
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    if not chosen.any():
        return [nothing("sparse", "one group cannot be halved")]
    values, groups = rows[f"head|{EXACT}"], rows.examples["group"][other]
    first = values[chosen].mean(0)
    turned = values[other] * np.sign(first)
    top, whole = metrics.top_heads(torch.tensor(first), SPARSE), turned.sum((1, 2))
    if not apart(whole, groups):
        return [nothing("sparse", reason or "the two halves of the groups do not agree on any effect")]
    own, drawn = at(turned, top).sum(1), at_random(turned, top).sum(1)
    both = {"denominators": whole, "untestable": reason}
    unit = "share of the summed |effect|"
    margin = number("sparse", own - drawn, groups, unit, than=HEADS, **both)
    return [number("sparse", own, groups, unit, **both), margin]


def _movers(rows: Rows, how: How, reason: str) -> list[pd.DataFrame]:
    """Attention on the answer's token of the heads that help, and the same minus that of random heads."""
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    looked = next((name for mark in ANSWER if (name := f"head|{ATTENTION}{mark}") in rows.values), None)
    if looked is None or not chosen.any():
        return [nothing("movers", reason or "the task does not mark the answer's token, or has one group")]
    mean = rows[f"head|{DIRECT}"][chosen].mean(0)
    helping = [head for head in metrics.top_heads(torch.tensor(mean), how.options.share) if mean[head] < 0]
    if not helping:
        return [nothing("movers", reason or "no head of the circuit helps")]
    attention, groups = rows[looked][other], rows.examples["group"][other]
    own, drawn = at(attention, helping).mean(1), at_random(attention, helping).mean(1)
    margin = number("movers", own - drawn, groups, "attention", than=HEADS, untestable=reason)
    return [number("movers", own, groups, "attention", untestable=reason), margin]


TABLES = {
    "task": (task_table, ("measure",)),
    "effects": (_all_effects, ("part", "measure", "p_value", "normalized")),
    "circuit": (_circuit, ("measure", "stage", "rank", "name", "chosen_on")),
    "agreement": (_agreement, ("part", "estimate", "measure")),
    "stability": (_stability, ("half", "measure", "reliability")),
    "tested": (_tested, ("claim", "than", "untestable")),
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of circuits, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
