"""Faithfulness: what of a task a circuit does alone, and whether cheap estimates would have found it.

The heads outside of a circuit are given the corrupt twin's outputs, at every position; MLPs and embeddings stay. The
heads are ranked by their exact effects on one half of the groups (of held-out examples) and scored on the other: by how
much they help (CPR) and by |effect| (CMD). Beside it: exact effects at all positions, gradient estimates of them, and
where in the prompt the effects lie.

Tables: task, curve, area, effects, positions, agreement, tested; see `tables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...probes.intervene.attribution import attribution_sweeps
from ...probes.intervene.replay import Put, Variant
from ...probes.intervene.sweep import patch_sweep, variant_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.agreement import ESTIMATES, FIVE, agreement_table
from ..common.claims import Claim, Statement
from ..common.contrast import PARTS, Contrast, apart, contrast, task_rows, task_table, unsolved
from ..common.controls import DRAWS, HEADS, Head, random_circuits
from ..common.frames import head_axes, summarise
from ..common.selection import at, chosen_half, halves, measured, measured_rows
from ..common.tested import judged, nothing, number

VERSION = 4
QUESTION = "Does the circuit alone do the task, and would gradients have found it?"
PAPER = "faithfulness as in arXiv 2504.13151 (MIB: CPR, CMD); arXiv 2403.17806 (integrated gradients)"
FIT_EXAMPLES = 32
EXACT = "patched at every position"
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SITES = ("z", "attn_out", "mlp_out")
HELP, SIZE = "most helpful first", "largest |effect| first"
RANKINGS = (HELP, SIZE)
TENTH, TOP = SHARES.index(0.1), 0.05

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
        0.7,
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
        "heads of largest |effect| (trapezoids); on the log axis from 1 % on, divided by its length. Both rankings are "
        f"by exact effects at all positions on held-out examples of {len(learned.selected_on)} groups, of "
        f"{fitted_on['examples']} examples in all; curves are over examples of the other groups alone. Control: as "
        f"many other heads of the same layers, {options.draws} draws; there is none where a layer has more than half "
        "of its heads in the circuit."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """All heads by help and by |effect|, measured on the held-out examples of one half of the groups."""
    if options.ranking is not None:
        given = [list(head) for head in options.ranking]
        return Learned(given, given)
    half, groups = chosen_half(subject, batches, "faithfulness")
    effects = []
    for batch in half:
        found = contrast(subject, batch, ("z",))
        sweep = patch_sweep(subject, found.base, found.donor, "z", positions=found.parted, measure=found.measure)
        effects.append(sweep.effects)
    helpful, ranking = rankings(torch.cat(effects).mean(0))
    return Learned(ranking, helpful, groups)


def rankings(effects: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """All heads as [layer, head], by how much they help (most negative patched − clean first) and by |effect|."""
    order = effects.flatten().argsort(stable=True).tolist()
    helpful = [list(divmod(place, effects.shape[1])) for place in order]
    return helpful, [list(head) for head in metrics.top_heads(effects, 1.0)]


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Exact and estimated effects [b, layer(, head)]; by named position; and the points of the curves, NaN for
    examples of the groups that the ranking comes from."""
    found = contrast(subject, batch, SITES)
    base, donor, both = found.base, found.donor, {"measure": found.measure, "positions": found.parted}
    kept = task_rows(found)
    for part, site in PARTS.items():
        kept[f"{part}|{EXACT}"] = patch_sweep(subject, base, donor, site, **both).effects
    for name, steps in ESTIMATES.items():
        sweeps = attribution_sweeps(subject, base, donor, PARTS.values(), **both, steps=steps)
        kept |= {f"{part}|{name}": sweeps[site].effects for part, site in PARTS.items()}
    if how.options.positions:
        kept |= _by_position(subject, batch, found)
    scored = torch.from_numpy(measured([e.group for e in batch.examples], how.learned.selected_on))
    points = torch.full((len(scored), len(RANKINGS), 1 + how.options.draws, len(SHARES)), torch.nan)
    if bool(scored.any()):
        examples = [e for e, there in zip(batch.examples, scored.tolist(), strict=True) if there]
        few = contrast(subject, subject.batch(examples, **batch.form), ("z",))
        curves = [_curves(subject, few, heads, how.options.draws) for heads in _rankings(how.learned)]
        points[scored] = torch.stack(curves, 1)
    return kept | {"curve": points[:, :, 0].contiguous(), "random": points[:, :, 1:].contiguous()}


def _rankings(learned: Learned) -> list[tuple[Head, ...]]:
    both = (learned.helpful or learned.ranking, learned.ranking)
    return [tuple((layer, head) for layer, head in heads) for heads in both]


def _curves(subject: Any, found: Contrast, ranking: Sequence[Head], draws: int) -> Tensor:
    """The measure [b, 1 + draws, shares]: the ranked circuit of every size, then random ones with as many other heads
    in each layer; NaN where no such circuit exists.
    """
    circuits: list[frozenset[Head] | None] = []
    for count in _counts(len(ranking)):
        drawn = random_circuits(ranking[:count], subject.n_heads, draws)
        circuits += [frozenset(ranking[:count]), *(map(frozenset, drawn) if drawn else [None] * draws)]
    value = _measured(found, dict.fromkeys(circuit for circuit in circuits if circuit is not None), frozenset(ranking))
    missing = torch.full_like(found.measure(found.base.logits.cpu(), torch.arange(len(found.answers))), torch.nan)
    points = [missing if circuit is None else value[circuit] for circuit in circuits]
    return torch.stack(points).unflatten(0, (len(SHARES), -1)).permute(2, 1, 0)


def _measured(found: Contrast, circuits: Iterable[frozenset[Head]], whole: frozenset[Head]) -> dict[frozenset, Tensor]:
    """Each circuit's measure [b], every one run once; the strongest edit comes first and is proved."""
    parted, edited = found.parted, [circuit for circuit in circuits if circuit != whole]
    variants = [_without(found, circuit, parted) for circuit in edited]
    sweep = variant_sweep(found.base, variants, parted, measure=found.measure)
    return dict(zip(edited, sweep.values, strict=True)) | {whole: sweep.clean}


def _without(found: Contrast, circuit: frozenset, parted: Tensor) -> Variant:
    """Every head outside of the circuit says what it says in the twin's run."""
    variant = {}
    for i, layer in enumerate(found.donor.layers):
        z = layer.site("z")
        others = tuple(h for h in range(z.shape[2]) if (i, h) not in circuit)
        if others:
            variant[i] = (Put("z", parted, z, others),)
    return variant


def _by_position(subject: Any, batch: Batch, found: Contrast) -> dict[str, Tensor]:
    """Exact effects at every named position: of attention and MLP outputs [b, layer], of heads [b, layer, head]."""
    kept, parted = {}, found.parted
    for name, where in named_positions(batch).items():
        for site in SITES:
            kept[f"position|{site}|{name}"] = _patched_at(subject, found, site, where, parted)
    return kept


def _patched_at(subject: Any, found: Contrast, site: str, where: Tensor, parted: Tensor) -> Tensor:
    """Exact effects [b, layer(, head)] of a site at some positions; 0 before the twins part."""
    if not bool((where & parted).any()):
        axes = (subject.n_layers, subject.n_heads) if site == "z" else (subject.n_layers,)
        return torch.zeros(len(where), *axes)
    return patch_sweep(subject, found.base, found.donor, site, positions=where, measure=found.measure).effects


def named_positions(batch: Batch) -> dict[str, Tensor]:
    """Disjoint sets of real positions: "last", then the marks in their order, then "other"; none empty."""
    last = batch.final
    found, rest = {"last": last}, batch.mask & ~last
    for name, where in batch.marks.items():
        found[name], rest = where & rest, rest & ~where
    found["other"] = rest
    return {name: where for name, where in found.items() if bool(where.any(1).all())}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    named = 5  # positions, about
    return (4 + named) * subject.n_layers * (subject.n_heads + 2) + 2 * (options.draws + 1) * len(SHARES)


def _scored(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "faithfulness")


def _counts(n_heads: int) -> list[int]:
    return [round(share * n_heads) for share in SHARES]


def _points(rows: Rows, ranking: int) -> dict[str, np.ndarray]:
    """The circuit's curve and its control's (mean over draws), [n, shares] each."""
    return {"": rows["curve"][:, ranking], HEADS: rows["random"][:, ranking].mean(1)}


def _curve(rows: Rows, how: How) -> pd.DataFrame:
    mine = _scored(rows, how)
    groups, frames = mine.examples["group"], []
    for place, ranking in enumerate(RANKINGS):
        for control, points in _points(mine, place).items():
            names: dict[str, Any] = {"control": control, "ranking": ranking}
            frames.append(summarise(points, groups, {"share": SHARES}, "logits", measure="logit difference", **names))
            above, span = _parts(mine, place, points)
            if apart(span[:, 0], groups):
                names |= {"denominators": np.broadcast_to(span, points.shape), "measure": "faithfulness"}
                frames.append(summarise(above, groups, {"share": SHARES}, "share of the effect", **names))
    frame = pd.concat(frames, ignore_index=True)
    heads = frame["share"].map(dict(zip(SHARES, _counts(len(how.learned.ranking)), strict=True)))
    frame = frame.assign(heads=heads, draws=np.where(frame["control"] == "", 1, how.options.draws))
    return frame[frame["value"].notna()].reset_index(drop=True)


def _parts(rows: Rows, ranking: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m − m₀ [n, shares], clean − m₀ [n, 1])."""
    nothing_kept = rows["curve"][:, ranking, :1]
    return points - nothing_kept, rows["clean"][:, None] - nothing_kept


def _area(rows: Rows, how: How) -> pd.DataFrame | None:
    mine = _scored(rows, how)
    groups, frames = mine.examples["group"].to_numpy(), []
    for place, name in enumerate(("CPR", "CMD")):
        curves = _points(mine, place)
        common = int(np.cumprod(~np.isnan(curves[HEADS]).any(0)).sum())  # so many points have a control
        for control, points in curves.items():
            above, span = _parts(mine, place, points)
            if apart(span[:, 0], groups) and (not control or common > 1):
                whole = np.concatenate([above[:, :common] if control else above, span], 1)
                frames.append(_areas(whole, groups, name, common).assign(control=control))
    return pd.concat(frames, ignore_index=True) if frames else None


def _areas(points: np.ndarray, groups: np.ndarray, name: str, common: int) -> pd.DataFrame:
    """Areas of the mean curve with their intervals; points: [n, shares + 1], the last column the denominators."""

    def of(mean: np.ndarray) -> dict[str, float]:
        curve, found = mean[:-1] / mean[-1], {}
        if len(curve) == len(SHARES):
            found = {key: value for key, value in areas(curve).items() if key.startswith(name)}
        if common > 1:
            short = areas(curve[:common], SHARES[:common])[name] / SHARES[common - 1]
            found[f"{name}, mean up to {SHARES[common - 1]:.0%}"] = short
        return found

    found = stats.bootstrap_statistic(points, groups, lambda mean: np.array(list(of(mean).values())), n_boot=500)
    bounds = dict(zip(("value", "lower", "upper"), found, strict=True))
    counts = {"n": len(groups), "n_groups": len(np.unique(groups)), "unit": "area"}
    return pd.DataFrame({"measure": list(of(points.mean(0))), **bounds} | counts)


def areas(curve: np.ndarray, shares: Sequence[float] = SHARES) -> dict[str, float]:
    """CPR ∫ f and CMD ∫ |1 − f| over the share kept, and both over log₁₀ of it from the first above 0 on, per decade.

    curve: the faithfulness at each of `shares`, in order. Source: arXiv 2504.13151 (MIB), hannamw/MIB-circuit-track.
    """
    x, off = np.array(shares), np.abs(1 - curve)
    log, there = np.log10(x[x > 0]), x > 0
    found = {"CPR": float(np.trapezoid(curve, x)), "CMD": float(np.trapezoid(off, x))}
    if len(log) < 2:
        return found
    per_decade = {n: np.trapezoid(y[there], log) / (log[-1] - log[0]) for n, y in (("CPR", curve), ("CMD", off))}
    return found | {f"{name}, log axis": float(value) for name, value in per_decade.items()}


def _effects(rows: Rows, how: How) -> pd.DataFrame:
    frames = []
    for part in ("head", "mlp"):
        for name in (EXACT, *ESTIMATES):
            values = rows[f"{part}|{name}"]
            groups = rows.examples["group"]
            frames.append(summarise(values, groups, head_axes(values), "logits", part=part, measure=name))
    return pd.concat(frames, ignore_index=True)


def _agreement(rows: Rows, how: How) -> pd.DataFrame | None:
    return agreement_table(rows, EXACT)


def _positions(rows: Rows, how: How) -> pd.DataFrame | None:
    frames = []
    for key in (name for name in rows.values if name.startswith("position|")):
        _, site, position = key.split("|")
        values = rows[key]
        names: dict[str, Any] = {"site": site, "position": position}
        frames.append(summarise(values, rows.examples["group"], head_axes(values), "logits", **names))
    return pd.concat(frames, ignore_index=True) if frames else None


# ---------------------------------------------------------------- claims


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    mine = _scored(rows, how)
    reason = unsolved(mine)
    return pd.concat([*_tenth(mine, reason), _found(rows, how, reason)], ignore_index=True)


def _found(rows: Rows, how: How, reason: str) -> pd.DataFrame:
    """The effect of the heads that gradients name over that of the exact top heads, each head's sign the first half's.

    Smooth where a recall of heads is not: a head that just misses the top is worth what it does.
    """
    chosen, other = halves(rows.examples["group"], how.learned.selected_on)
    if not chosen.any():
        return nothing("gradients", reason or "one group cannot be halved")
    exact, guess = (rows[f"head|{name}"][chosen].mean(0) for name in (EXACT, FIVE))
    turned, groups = rows[f"head|{EXACT}"][other] * np.sign(exact), rows.examples["group"][other]
    top, named = (at(turned, metrics.top_heads(torch.tensor(x), TOP)).sum(1) for x in (exact, guess))
    if not apart(top, groups):
        return nothing("gradients", reason or "the two halves of the groups do not agree on the top heads")
    return number("gradients", named, groups, "share", denominators=top, untestable=reason)


def _tenth(rows: Rows, reason: str) -> list[pd.DataFrame]:
    """Faithfulness with a tenth of the heads, and the same minus that of random heads of their layers."""
    groups, place = rows.examples["group"], RANKINGS.index(SIZE)
    curves = {control: _parts(rows, place, points) for control, points in _points(rows, place).items()}
    (own, span), (random, _) = curves[""], curves[HEADS]
    if not apart(span[:, 0], groups):
        said = reason or "clean and all heads resampled do not differ here: faithfulness is not defined"
        return [nothing(name, said) for name in ("faithful", "not depth")]
    given = {"denominators": span[:, 0], "untestable": reason}
    unit, ahead = "share of the effect", (own - random)[:, TENTH]
    alone = "" if not np.isnan(ahead).all() else f"no control: there are no {HEADS}"
    return [
        number("faithful", own[:, TENTH], groups, unit, **given),
        number("faithful", ahead, groups, unit, than=HEADS, **given),
        number("not depth", ahead, groups, unit, **given | {"untestable": reason or alone}),
    ]


TABLES = {
    "task": (task_table, ("measure",)),
    "curve": (_curve, ("share", "measure", "ranking", "heads", "draws")),
    "area": (_area, ("measure",)),
    "effects": (_effects, ("part", "measure")),
    "positions": (_positions, ("site", "position")),
    "agreement": (_agreement, ("part", "estimate", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of circuits, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
