"""Faithfulness: what of a task a circuit does alone, and whether cheap estimates would have found it.

The heads outside of a circuit are given the corrupt twin's outputs, at every position; MLPs stay. The heads are ranked
by their exact effects on one half of the groups (of held-out examples) and scored on the other. Beside it: exact
effects at all positions, gradient estimates of them, and where in the prompt the effects lie.

Tables: task, curve, area, effects, positions, agreement; see `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.example import NothingToMeasure
from ..probes.attribution import attribution_sweeps
from ..probes.batch import Batch
from ..probes.replay import Put, Variant
from ..probes.rows import Rows
from ..probes.sweep import patch_sweep, variant_sweep
from . import metrics, stats
from .agreement import ESTIMATES, agreement_table
from .claims import Claim, interval, verdict
from .contrast import PARTS, Contrast, contrast, half_of, task_rows
from .frames import by_condition, head_axes, held_out, order_columns, summarise

VERSION = 2
QUESTION = "Does the circuit alone do the task, and would gradients have found it?"
PAPER = "faithfulness as in arXiv 2504.13151 (MIB: CPR, CMD); arXiv 2403.17806 (integrated gradients)"
FIT_EXAMPLES = 32
EXACT = "patched at every position"
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RANDOM = "random heads of the same layers"
SITES = ("z", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Options:
    """draws: random circuits per point. ranking: heads as (layer, head), strongest first, and selected_on: the groups
    that it comes from; both are found on held-out examples where None. positions: whether effects by named position
    are measured too.
    """

    draws: int = 20
    ranking: tuple[tuple[int, int], ...] | None = None
    selected_on: tuple[str, ...] = ()
    positions: bool = True


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "A circuit keeps the top share of heads; every other head's z is taken from the corrupt twin at all positions "
        "(MLPs are computed again and not resampled). Faithfulness: (m − m₀) / (clean − m₀), m the mean logit "
        "difference and m₀ that with no head kept. The ranking is by |exact effect at all positions| on "
        f"one half of the groups of {held_out(fitted_on)}; curves are over examples of all groups but those. "
        "CPR is the area under the curve over the share kept, CMD the area between the curve and 1 "
        "(trapezoids); on the log axis from 1 % on, divided by its length."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> dict[str, Any]:
    """All heads by |effect|, measured on the held-out examples of one half of the groups."""
    if options.ranking is not None:
        return {"ranking": [list(h) for h in options.ranking], "selected_on": list(options.selected_on)}
    chosen, names = half_of(subject, batches, "faithfulness")
    effects = torch.cat([_exact_effects(subject, contrast(subject, batch, ("z",))) for batch in chosen])
    ranking = [list(head) for head in metrics.top_heads(effects.mean(0), 1.0)]
    return {"ranking": ranking, "selected_on": names}


def _exact_effects(subject: Any, found: Any) -> Tensor:
    both = {"positions": found.parted, "measure": found.measure}
    return patch_sweep(subject, found.base, found.donor, "z", **both).effects


def rows(subject: Any, batch: Batch, options: Options) -> dict[str, Tensor]:
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
    if options.positions:
        kept |= _by_position(subject, batch, found)
    scored = torch.tensor([e.group not in options.selected_on for e in batch.examples])
    curve, random = torch.full((2, len(scored), options.draws, len(SHARES)), torch.nan)
    if bool(scored.any()):
        examples = [e for e, there in zip(batch.examples, scored.tolist(), strict=True) if there]
        points = _curves(subject, contrast(subject, subject.batch(examples, **batch.form), ("z",)), options)
        curve[scored], random[scored] = points[:, :1].expand(-1, options.draws, -1), points[:, 1:]
    return kept | {"curve": curve[:, 0], "random": random}


def _curves(subject: Any, found: Contrast, options: Options) -> Tensor:
    """The measure [b, 1 + draws, shares]: the ranked circuit of every size, then random ones of its layer profile."""
    generator = torch.Generator().manual_seed(0)
    ranking = [tuple(head) for head in options.ranking or ()]
    circuits = []
    for share in SHARES:
        top = set(ranking[: round(share * len(ranking))])
        circuits.append([top, *(_random(top, subject, generator) for _ in range(options.draws))])
    flat = [circuit for several in circuits for circuit in several]
    # A circuit that recurs (none kept, all kept) is run once; the strongest edit comes first and is proved.
    unique = list(dict.fromkeys(map(frozenset, flat)))
    everything = frozenset(ranking)
    edited = [circuit for circuit in unique if circuit != everything]
    parted = found.parted
    variants = [_without(found, circuit, parted) for circuit in edited]
    sweep = variant_sweep(found.base, variants, parted, measure=found.measure)
    value = dict(zip(edited, sweep.values, strict=True)) | {everything: sweep.clean}
    points = torch.stack([value[frozenset(circuit)] for circuit in flat]).unflatten(0, (len(SHARES), -1))
    return points.permute(2, 1, 0)


def _random(circuit: set, subject: Any, generator: torch.Generator) -> set:
    """As many heads of every layer, drawn at random."""
    drawn = set()
    for layer in {layer for layer, _ in circuit}:
        count = sum(1 for one, _ in circuit if one == layer)
        drawn |= {(layer, int(h)) for h in torch.randperm(subject.n_heads, generator=generator)[:count]}
    return drawn


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
    return (4 + named) * subject.n_layers * (subject.n_heads + 2) + (options.draws + 1) * len(SHARES)


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """curve: control measure ("faithfulness", "logit difference") share heads value …; faithfulness is left out where
    clean − m₀ has an interval around 0. area: measure ("CPR", "CMD", "CPR, log axis", "CMD, log axis") control value.
    effects: part layer head measure value …. positions: site position layer (head) value …. agreement: part estimate
    measure value ….
    """
    makers = {"curve": _curve, "area": _area, "effects": _effects, "positions": _positions, "agreement": _agree}
    found = by_condition(rows, makers, options)
    return {name: order_columns(table) for name, table in found.items()}


def _scored(rows: Rows) -> Rows:
    scored = rows.where(~np.isnan(rows["curve"][:, 0]))
    if not len(scored.examples):
        raise NothingToMeasure("no example is left in the groups that heads were not chosen on: raise --limit")
    return scored


def _counts(options: Options) -> list[int]:
    return [round(share * len(options.ranking or ())) for share in SHARES]


def _curve(rows: Rows, options: Options) -> pd.DataFrame:
    mine = _scored(rows)
    groups, curve, random = mine.examples["group"], mine["curve"], mine["random"].mean(1)
    nothing = curve[:, :1]
    span = mine["clean"][:, None] - nothing
    axes = {"share": SHARES}
    frames = []
    for control, points in (("", curve), (RANDOM, random)):
        frames.append(summarise(points, groups, axes, "logits", measure="logit difference", control=control))
        if _apart(span[:, 0], groups):
            kept = {"denominators": np.broadcast_to(span, points.shape), "measure": "faithfulness", "control": control}
            frames.append(summarise(points - nothing, groups, axes, "share of the effect", **kept))
    frame = pd.concat(frames, ignore_index=True)
    heads = frame["share"].map(dict(zip(SHARES, _counts(options), strict=True)))
    return frame.assign(heads=heads, draws=np.where(frame["control"] == "", 1, options.draws))


def _apart(span: np.ndarray, groups: Any) -> bool:
    """Whether a denominator's interval leaves out 0."""
    _, lower, upper = stats.group_bootstrap(span, groups)
    return bool(lower > 0 or upper < 0)


def _area(rows: Rows, options: Options, n_boot: int = 500) -> pd.DataFrame:
    mine = _scored(rows)
    groups = mine.examples["group"].to_numpy()
    span = mine["clean"] - mine["curve"][:, 0]
    if not _apart(span, groups):
        return pd.DataFrame()
    codes = np.unique(groups, return_inverse=True)[1]
    n_groups = int(codes.max()) + 1
    draws = np.random.default_rng(0).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_boot)
    found = []
    for control, points in (("", mine["curve"]), (RANDOM, mine["random"].mean(1))):
        above = points - mine["curve"][:, :1]
        whole = areas(above.sum(0) / span.sum())
        drawn = [areas(w[codes] @ above / (w[codes] @ span)) for w in draws]
        for name, value in whole.items():
            low, high = np.nanpercentile([d[name] for d in drawn], [2.5, 97.5]) if n_groups > 1 else (np.nan, np.nan)
            row = {"control": control, "measure": name, "value": value, "lower": low, "upper": high, "unit": "area"}
            found.append(row | {"n": len(groups), "n_groups": n_groups})
    return pd.DataFrame(found)


def areas(curve: np.ndarray) -> dict[str, float]:
    """CPR ∫ f and CMD ∫ |1 − f| over the share kept (0…1), and both over log₁₀ of it from 1 % on, per decade."""
    shares, log = np.array(SHARES), np.log10(SHARES[1:])
    length = log[-1] - log[0]
    return {
        "CPR": float(np.trapezoid(curve, shares)),
        "CMD": float(np.trapezoid(np.abs(1 - curve), shares)),
        "CPR, log axis": float(np.trapezoid(curve[1:], log) / length),
        "CMD, log axis": float(np.trapezoid(np.abs(1 - curve[1:]), log) / length),
    }


def _effects(rows: Rows, options: Options) -> pd.DataFrame:
    frames = []
    for part in ("head", "mlp"):
        for name in (EXACT, *ESTIMATES):
            values = rows[f"{part}|{name}"]
            groups = rows.examples["group"]
            frames.append(summarise(values, groups, head_axes(values), "logits", part=part, measure=name))
    return pd.concat(frames, ignore_index=True)


def _positions(rows: Rows, options: Options) -> pd.DataFrame:
    frames = []
    for key in (name for name in rows.values if name.startswith("position|")):
        _, site, position = key.split("|")
        values = rows[key]
        names: dict[str, Any] = {"site": site, "position": position}
        frames.append(summarise(values, rows.examples["group"], head_axes(values), "logits", **names))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _agree(rows: Rows, options: Options) -> pd.DataFrame:
    return agreement_table(rows, EXACT)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of circuits; thresholds set before any number was seen."""
    return [_claim_faithful(tables["curve"]), _claim_random(tables["curve"]), _claim_estimates(tables["agreement"])]


def _point(curve: pd.DataFrame, share: float, control: str = "") -> pd.Series | None:
    first = curve["condition"].iloc[0]
    chosen = (curve["measure"] == "faithfulness") & (curve["share"] == share) & (curve["control"] == control)
    found = curve[chosen & (curve["condition"] == first)]
    return None if found.empty else found.iloc[0]


UNDEFINED = "clean and all heads resampled do not differ here: faithfulness is not defined"


def _said(point: pd.Series) -> str:
    return f"{interval(point)}, n = {point['n']}"


def _claim_faithful(curve: pd.DataFrame) -> Claim:
    text = "A tenth of the heads does the task: faithfulness at 10 % of the heads is above 0.8."
    point = _point(curve, 0.1)
    if point is None:
        return Claim(text, "arXiv 2211.00593", UNDEFINED, verdict(False, False))
    return Claim(text, "arXiv 2211.00593", _said(point), verdict(point["lower"] > 0.8, point["upper"] < 0.8))


def _claim_random(curve: pd.DataFrame) -> Claim:
    text = "The heads matter, not their depth: at 10 % the circuit is more faithful than random heads of its layers."
    ours, theirs = _point(curve, 0.1), _point(curve, 0.1, RANDOM)
    if ours is None or theirs is None:
        return Claim(text, "control", UNDEFINED, verdict(False, False))
    apart = ours["lower"] > theirs["upper"], ours["upper"] < theirs["lower"]
    return Claim(text, "control", f"{_said(ours)} against {_said(theirs)}, {theirs['draws']} draws", verdict(*apart))


def _claim_estimates(agreement: pd.DataFrame) -> Claim:
    text = "Gradients find the circuit: integrated gradients recall at least 70 % of the top 5 % of heads."
    found = agreement[(agreement["part"] == "head") & (agreement["estimate"] == "5 steps")]
    point = found[found["measure"] == "recall of the top 5%"].iloc[0]
    return Claim(text, "arXiv 2403.17806", _said(point), verdict(point["lower"] >= 0.7, point["upper"] < 0.7))
