"""Circuits: which heads and MLPs carry a task, what they read, and what they write.

Every head's and MLP's output at the last position is replaced by the one of the corrupt twin, exactly; then only the
path from a head to the final residual, and to the queries of the heads that write the answer (movers), with all other
heads frozen. Beside them: direct logit attribution, attention of the last position to named tokens, and how well
gradient estimates agree with the exact effects.

Tables: task, effects, circuit, agreement, stability; see `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.example import UserError
from ..probes.attribution import attribution_sweeps
from ..probes.batch import Batch
from ..probes.direct import direct_attribution
from ..probes.paths import Receiver, path_sweep
from ..probes.plan import first_condition
from ..probes.rows import Rows
from ..probes.sweep import patch_sweep
from ..probes.trace import Layer, tracing
from . import metrics, stats
from .agreement import ESTIMATES, agreement_table
from .claims import Claim, interval, verdict
from .contrast import PARTS, Contrast, contrast, task_rows
from .frames import by_condition, head_axes, held_out, order_columns, summarise

VERSION = 2
QUESTION = "Which heads and MLPs carry the task, and what does each of them do?"
PAPER = "arXiv 2310.08744 (circuit component reuse), arXiv 2211.00593 (path patching)"
FIT_EXAMPLES = 32
EXACT, DIRECT, MOVERS = "patched at the last position", "path to the output", "path to the movers' queries"
LOGITS, ATTENTION = "direct logit attribution", "attention on "


@dataclass(frozen=True)
class Options:
    """share: of all heads that a stage puts into the circuit. movers: how many heads count as movers.

    mover_attention, inhibition_attention: a head of the circuit is named by what the last position attends to in it:
    mover or negative mover from this share on the answer's token, inhibition head from this share on the wrong
    option's. heads: the movers, (layer, head), or those found on held-out examples where None. steps: whether
    gradients are asked too.
    """

    share: float = 0.02
    movers: int = 3
    mover_attention: float = 0.2
    inhibition_attention: float = 0.2
    heads: tuple[tuple[int, int], ...] | None = None
    steps: bool = True


# The marks of the tasks that hold the answer's token, and those of the option that is wrong (where the answer is marked
# as well: the subject of a fact is no option).
ANSWER = ("indirect_object", "asked_color", "answer")
WRONG = ("second_subject", "subject", "other_colors")


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Logit difference: answer minus the answer of the corrupt twin, at the last position. Effects are patched "
        "minus clean, in logits: a negative one means that the head carries the answer. A head's z (an MLP's "
        "output) at the last position is taken from the twin; on a path every other head's z is frozen to the clean "
        f"run and MLPs are computed again. The movers ({listed(options.heads)}), whose queries are receivers, have the "
        f"largest effect on the path to the output on {held_out(fitted_on)}. A stage's circuit: the "
        f"{options.share:.0%} of heads with the largest |effect|."
    )


def listed(heads: Sequence[tuple[int, int]] | None) -> str:
    """ "23.3, 29.1", or "none"."""
    return ", ".join(f"{layer}.{head}" for layer, head in heads or ()) or "none"


def fit(subject: Any, batches: list[Batch], options: Options) -> dict[str, Any]:
    """The movers: the heads of largest |effect| on the path to the output, on held-out examples."""
    if options.heads is not None:
        return {"heads": [list(head) for head in options.heads]}
    return {"heads": movers(subject, first_condition(batches), options.movers)}


def movers(subject: Any, batches: Sequence[Batch], count: int) -> list[list[int]]:
    """The heads of largest |effect| on the path to the output, mean over the examples of all batches: [layer, head]."""
    effects = torch.cat([_direct_effects(subject, contrast(subject, batch)) for batch in batches])
    return [list(head) for head in metrics.top_heads(effects.mean(0), 1.0)[:count]]


def _direct_effects(subject: Any, found: Contrast) -> Tensor:
    return path_sweep(subject, found.base, found.donor, measure=found.measure).effects


def queries_of(heads: Sequence[tuple[int, int]] | None) -> list[Receiver]:
    """Their queries as receivers; those of layer 0 hear no head."""
    return [Receiver(layer, head, "q") for layer, head in heads or () if layer > 0]


def rows(subject: Any, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Effects [b, layer, head] and [b, layer], in logits; the task's own numbers [b]."""
    found = contrast(subject, batch)
    base, donor, measure = found.base, found.donor, found.measure
    last = base.final
    both = {"measure": measure, "positions": last}
    kept = task_rows(found)
    for part, site in PARTS.items():
        kept[f"{part}|{EXACT}"] = patch_sweep(subject, base, donor, site, **both).effects
    kept[f"head|{DIRECT}"] = _direct_effects(subject, found)
    if receivers := queries_of(options.heads):
        kept[f"head|{MOVERS}"] = path_sweep(subject, base, donor, receivers, **both).effects
    for name, steps in ESTIMATES.items() if options.steps else ():
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


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """task: measure control value … ("accuracy", "top-1", "logit difference").

    effects: part ("head", "mlp") layer head measure value lower upper n n_groups unit q_value normalized; unit
    "logits" or "attention"; normalized: Σ effect / Σ (donor − clean), NaN where the task is not solved.
    circuit: stage layer head rank value name, and the head's other numbers as columns. agreement: part estimate measure
    value lower upper. stability: measure half layer head value: effects of the two halves of the groups.
    """
    makers = {"task": _task, "effects": _all_effects, "agreement": _agreement, "stability": _stability}
    found = by_condition(rows, makers)
    found["circuit"] = circuit_table(found["effects"], options)
    return {name: order_columns(table) for name, table in found.items()}


def _task(rows: Rows) -> pd.DataFrame:
    measures = {
        ("accuracy among the options", "", "share"): rows["right"],
        ("accuracy among the options", "guessing", "share"): rows["guessing"],
        ("top-1", "", "share"): rows["top1"],
        ("logit difference", "", "logits"): rows["clean"],
        ("logit difference", "corrupt twin", "logits"): rows["donor"],
        ("clean − corrupt", "", "logits"): rows["clean"] - rows["donor"],
    }
    frames = [
        summarise(values, rows.examples["group"], {}, unit).assign(measure=name, control=control)
        for (name, control, unit), values in measures.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _names(rows: Rows, part: str) -> list[str]:
    return [name.removeprefix(f"{part}|") for name in rows.values if name.startswith(f"{part}|")]


def _all_effects(rows: Rows) -> pd.DataFrame:
    """One row per head or MLP and measure."""
    groups, span = rows.examples["group"], rows["donor"] - rows["clean"]
    _, lower, upper, _ = stats.paired_difference(rows["donor"], rows["clean"], groups)
    solved = bool(upper < 0 or lower > 0)
    frames = []
    for part in ("head", "mlp"):
        for name in _names(rows, part):
            values = rows[f"{part}|{name}"]
            unit = "attention" if name.startswith(ATTENTION) else "logits"
            frame = summarise(values, groups, head_axes(values), unit, part=part, measure=name)
            causal = unit == "logits" and name != LOGITS
            p = stats.paired_difference(values, np.zeros_like(values), groups).p_value
            frame["q_value"] = stats.benjamini_hochberg(p).ravel() if causal else np.nan
            frame["normalized"] = (values.sum(0) / span.sum()).ravel() if causal and solved else np.nan
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def circuit_table(effects: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The heads of every stage with all that is known of them, and their names; see `named`."""
    heads = effects[effects["part"] == "head"]
    frames = []
    for condition, mine in heads.groupby("condition", sort=False):
        wide = mine.pivot_table(index=["layer", "head"], columns="measure", values="value")
        for stage in (EXACT, DIRECT, MOVERS):
            if stage not in wide:
                continue
            grid = torch.tensor(wide[stage].unstack("head").to_numpy())
            chosen = metrics.top_heads(grid, options.share)
            stage_rows = mine[mine["measure"] == stage].set_index(["layer", "head"]).loc[chosen].reset_index()
            others = wide.loc[chosen].reset_index(drop=True).drop(columns=stage)
            frame = stage_rows.drop(columns=["part", "measure"]).join(others)
            frame = frame.assign(stage=stage, rank=range(1, len(chosen) + 1), condition=condition)
            frames.append(frame.assign(name=[named(row, options) for row in wide.loc[chosen].to_dict("records")]))
    return pd.concat(frames, ignore_index=True)


def named(head: Mapping[Any, float], options: Options) -> str:
    """A head's name by its numbers: "mover", "negative mover", "inhibition", or "" where no threshold is met.

    Mover: attention on the answer's token from `mover_attention`, and it writes towards the answer (negative mover:
    against it). Inhibition: attention on the wrong option's token from `inhibition_attention`, without being a mover. A
    task that does not mark the answer's token names no head.
    """
    if not any(ATTENTION + mark in head for mark in ANSWER):
        return ""

    def on(marks: tuple[str, ...]) -> float:
        return max((head.get(ATTENTION + mark, 0.0) for mark in marks), default=0.0)

    if on(ANSWER) >= options.mover_attention and on(ANSWER) >= on(WRONG):
        return "mover" if head.get(LOGITS, 0.0) > 0 else "negative mover"
    return "inhibition" if on(WRONG) >= options.inhibition_attention else ""


def _agreement(rows: Rows) -> pd.DataFrame:
    return agreement_table(rows, EXACT)


def _stability(rows: Rows) -> pd.DataFrame:
    """Mean effects of every head on two halves of the groups: what noise leaves of an overlap."""
    groups = rows.examples["group"]
    if groups.nunique() < 2:
        return pd.DataFrame()
    halves = stats.split_half(groups)
    frames = []
    for stage in (s for s in (EXACT, DIRECT, MOVERS) if f"head|{s}" in rows.values):
        values = rows[f"head|{stage}"]
        reliability = stats.split_half_correlation(values, groups)
        for number, half in enumerate(halves, 1):
            mean = values[half].mean(0)
            layer, head = np.indices(mean.shape)
            cells = {"layer": layer.ravel(), "head": head.ravel(), "value": mean.ravel(), "n": int(half.sum())}
            frame = pd.DataFrame({**cells, "n_groups": groups[half].nunique(), "unit": "logits", "half": number})
            frames.append(frame.assign(measure=stage, reliability=reliability))
    return pd.concat(frames, ignore_index=True)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of circuits; thresholds set before any number was seen."""
    task = tables["task"]
    task = task[task["condition"] == task["condition"].iloc[0]]
    heads = tables["effects"]
    heads = heads[(heads["condition"] == task["condition"].iloc[0]) & (heads["part"] == "head")]
    return [_claim_solved(task), _claim_sparse(heads), _claim_movers(tables["circuit"]), _claim_estimates(tables)]


def _claim_solved(task: pd.DataFrame) -> Claim:
    text = "The model solves the task: its accuracy among the options is above guessing, and clean − corrupt above 0."
    row = task[task["measure"] == "clean − corrupt"].iloc[0]
    right, guess = (
        task[(task["measure"] == "accuracy among the options") & (task["control"] == control)].iloc[0]
        for control in ("", "guessing")
    )
    numbers = (
        f"accuracy {interval(right)} where guessing gives {guess['value']:.2f}; clean − corrupt {interval(row)} "
        f"logits, n = {row['n']}"
    )
    if not (row["lower"] > 0 or row["upper"] < 0):
        numbers += "; nothing is divided by this difference, effects are shown in logits alone"
    solved = row["lower"] > 0 and right["lower"] > guess["value"]
    return Claim(
        text,
        "what a circuit presupposes",
        numbers,
        verdict(solved, row["upper"] < 0 or right["upper"] < guess["value"]),
    )


def _claim_sparse(heads: pd.DataFrame) -> Claim:
    text = "A few heads carry the task: the top 2 % hold more than a third of the summed |effect| at the last position."
    sizes = heads[heads["measure"] == EXACT]["value"].abs().sort_values(ascending=False)
    if not sizes.sum() > 0:
        return Claim(text, "arXiv 2211.00593, 2310.08744", "no head has an effect", verdict(False, False))
    top = sizes.iloc[: max(1, round(0.02 * len(sizes)))].sum() / sizes.sum()
    text_n = f"{top:.0%} in {max(1, round(0.02 * len(sizes)))} of {len(sizes)} heads, n = {heads['n'].max()}"
    return Claim(text, "arXiv 2211.00593, 2310.08744", text_n, "holds" if top > 1 / 3 else "fails")


def _claim_movers(circuit: pd.DataFrame) -> Claim:
    text = "The heads that write the answer attend to it: most heads on the path to the output that help are movers."
    direct = circuit[(circuit["stage"] == DIRECT) & (circuit["value"] < 0) & (circuit["upper"] < 0)]
    columns = [str(column) for column in circuit]
    if not any(c.startswith(ATTENTION) and c.removeprefix(ATTENTION) in ANSWER for c in columns):
        return Claim(text, "arXiv 2211.00593", "the task does not mark the answer's token", verdict(False, False))
    movers = (direct["name"] == "mover").sum()
    numbers = f"{movers} of {len(direct)} heads with an interval below 0 are movers by the thresholds"
    return Claim(text, "arXiv 2211.00593", numbers, verdict(movers > len(direct) / 2, movers < len(direct) / 2))


def _claim_estimates(tables: dict[str, pd.DataFrame]) -> Claim:
    text = "Integrated gradients agree with exact patching better than one gradient does (Spearman over heads)."
    found = tables.get("agreement", pd.DataFrame(columns=["measure", "part"]))
    found = found[(found["measure"] == "Spearman") & (found["part"] == "head")]
    if len(found) < 2:
        return Claim(text, "arXiv 2403.17806", "no gradients were asked for", verdict(False, False))
    one, five = (found[found["estimate"] == e].iloc[0] for e in ESTIMATES)
    numbers = f"{interval(five)} with 5 steps, {interval(one)} with 1, n = {one['n']}"
    return Claim(text, "arXiv 2403.17806", numbers, verdict(five["lower"] > one["upper"], five["upper"] < one["lower"]))
