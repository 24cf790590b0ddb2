"""Repairs: do edits of attention take hallucinations away?

Head reinforcement (`vhr`), redistribution of visual attention (`var`) and attention calibration (`act`) are context
managers that act in `model.generate`:

    with repairs.vhr(subject, alpha=2.0):
        subject.model.generate(**inputs)

The analysis measures each of them and its controls: on questions with one right and one wrong token (POPE's measures
where the answers are yes and no), and on captions of images whose objects are known (CHAIR's measures).

Tables: measures, differences, cost, heads; see `tables` for their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.example import UserError
from ..data.words import count
from ..probes.answers import generate
from ..probes.batch import Batch
from ..probes.blind import image_columns
from ..probes.measures import logit_difference
from ..probes.plan import first_condition
from ..probes.rows import Rows
from . import hallucination, sinks, stats
from .act import act, act_effects
from .claims import Claim, verdict
from .frames import head_axes, held_out, order_columns, summarise
from .var import var
from .vhr import vhr

__all__ = ["act", "act_effects", "var", "vhr"]

VERSION = 1
QUESTION = "Which repair of attention takes hallucinations away, and is it the repair or any change of that size?"
PAPER = "arXiv 2412.13949 (VHR), 2503.03321 (VAR), 2406.15765 (ACT); measures: POPE 2305.10355, CHAIR 1809.02156"
FIT_EXAMPLES = 32
NONE = "none"
COUNTS = ("named", "hallucinated", "found", "there", "length")


@dataclass(frozen=True)
class Options:
    """Strengths and controls. The first of alphas, ps and betas is the paper's; the others are the sweep.

    draws: random heads (columns) per repair. tokens: of a caption at most. rho, mass: which heads VAR edits. threshold:
    column mean of a hidden sink. image: how VHR's blind branch loses the image. timed: tokens of the timing, 0 for
    none. Learned on held-out examples: dimensions and tau of the sinks; heads, those whose calibration alone does not
    lower the logit difference of the answers (all of layers 2 … L−2 where answers are captions); cost.
    """

    alphas: tuple[float, ...] = (2.0, 1.5, 3.0)
    ps: tuple[float, ...] = (0.6, 0.3, 0.9)
    betas: tuple[float, ...] = (0.4, 0.7, 0.1)
    draws: int = 20
    tokens: int = 48
    rho: float = 0.5
    mass: float = 0.2
    threshold: float = 0.1
    image: str = "dropped"
    timed: int = 12
    dimensions: tuple[int, ...] | None = None
    tau: float | None = None
    heads: tuple[tuple[int, int], ...] | None = None
    cost: tuple[tuple[str, float, float, float, float], ...] = ()


class Variant(NamedTuple):
    """One way to run the model. draws: how many seeds it is run with."""

    repair: str
    setting: float
    control: str
    draws: int
    open: Callable[[Any, int], AbstractContextManager[Any]]

    @property
    def key(self) -> str:
        return f"{self.repair}|{self.setting:g}|{self.control}"


def variants(options: Options) -> list[Variant]:
    """The plain model, every repair at every strength, and the controls of the first strength."""
    made = [Variant(NONE, 0.0, "", 1, lambda subject, seed: nullcontext())]
    vhr_controls = {"complement": ("least divergent heads", 1), "spread": ("all heads, same norm", 1)}
    vhr_controls |= {"random": ("random heads", options.draws)}
    for alpha in options.alphas:
        how: dict[str, Any] = {"alpha": alpha, "image": options.image}
        made.append(Variant("VHR", alpha, "", 1, lambda s, seed, how=how: vhr(s, **how)))
        for heads, (name, draws) in vhr_controls.items() if alpha == options.alphas[0] else ():
            made.append(
                Variant("VHR", alpha, name, draws, lambda s, seed, how=how, h=heads: vhr(s, heads=h, seed=seed, **how))
            )
    for p in options.ps if options.dimensions and options.tau is not None else ():
        how = {"dimensions": options.dimensions, "tau": options.tau, "p": p, "rho": options.rho, "mass": options.mass}
        made += _with_random("VAR", p, options, p == options.ps[0], var, how)
    for beta in options.betas:
        how = {
            "beta": beta,
            "threshold": options.threshold,
            "heads": options.heads and [tuple(h) for h in options.heads],
        }
        made += _with_random("ACT", beta, options, beta == options.betas[0], act, how)
    return made


def _with_random(
    name: str, setting: float, options: Options, first: bool, repair: Any, how: dict[str, Any]
) -> list[Variant]:
    made = [Variant(name, setting, "", 1, lambda s, seed: repair(s, **how))]
    if first:
        drawn = Variant(
            name,
            setting,
            "random columns",
            options.draws,
            lambda s, seed: repair(s, columns="random", seed=seed, **how),
        )
        made.append(drawn)
    return made


def _at_random(repair: Any, how: dict[str, Any], subject: Any, seed: int) -> AbstractContextManager[Any]:
    return repair(subject, columns="random", seed=seed, **how)


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    dims = ", ".join(map(str, options.dimensions or ())) or "none, so VAR is left out"
    heads = "all heads of layers 2 … L−2" if options.heads is None else f"the {len(options.heads)} heads that it helps"
    return (
        f"The same examples were answered by the plain model and under every repair. VHR: image {options.image} in the "
        f"blind branch. VAR: massive dimensions {dims}, τ = {options.tau or float('nan'):.2f}, ρ = {options.rho:g}, "
        f"visual mass ≥ {options.mass:g}. ACT: hidden sinks above {options.threshold:g} in {heads}. Dimensions, τ, "
        f"heads and times were found on {held_out(fitted_on)}; strengths are the papers', none was chosen here. "
        f"Controls with random heads or columns are pooled over {options.draws} draws. Intervals of differences are "
        "paired: every draw of groups serves both sides."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> dict[str, Any]:
    """Sink dimensions and τ, ACT's heads, and what each repair costs, from held-out examples."""
    found = sinks.fit(subject, batches, sinks.Options(dimensions=options.dimensions, tau=options.tau))
    found = {"dimensions": found["dimensions"] or None, "tau": found["tau"]}
    if options.heads is None and not _asks_captions(batches[0]):
        effects = [_act_effects(subject, batch, options) for batch in first_condition(batches)]
        joined = {pair: torch.cat([one[pair] for one in effects]) for pair in effects[0]}
        found["heads"] = [list(pair) for pair, value in joined.items() if bool(value.any()) and value.mean() >= 0]
    if options.timed:
        found["cost"] = cost(subject, batches[0], replace(options, **found))
    return found


def _act_effects(subject: Any, batch: Batch, options: Options) -> dict[tuple[int, int], Tensor]:
    measure = logit_difference(batch.answers, batch.wrong)
    return act_effects(subject, batch, measure, threshold=options.threshold, beta=options.betas[0])


def cost(subject: Any, batch: Batch, options: Options, rounds: int = 5) -> list[tuple[str, float, float, float, float]]:
    """Seconds a token of greedy generation (its prompt included), and its ratio to the plain model's, quartiles beside.

    Interleaved rounds on up to 8 examples; the first round is not counted.
    """
    few = subject.batch(batch.examples[:8], **{**batch.form, "padding": "left"})
    firsts = {v.repair: v for v in reversed(variants(options)) if not v.control and v.setting in _firsts(options)}
    times: dict[str, list[float]] = {name: [] for name in (NONE, *sorted(set(firsts) - {NONE}))}
    for turn in range(rounds + 1):
        for name in times:
            with firsts[name].open(subject, 0):
                start = perf_counter()
                _generate_exactly(subject, few, options.timed)
                took = (perf_counter() - start) / options.timed
            if turn:
                times[name].append(took)
    rows = []
    for name, took in times.items():
        ratios = np.array(took) / np.array(times[NONE])
        low, high = np.quantile(ratios, [0.25, 0.75])
        rows.append((name, float(np.median(took)), float(np.median(ratios)), float(low), float(high)))
    return rows


def _firsts(options: Options) -> tuple[float, ...]:
    return (0.0, options.alphas[0], options.ps[0], options.betas[0])


def _generate_exactly(subject: Any, batch: Batch, tokens: int) -> None:
    """So many tokens for every example, end or no end."""
    subject.model.generate(
        **{k: v.to(subject.device) if isinstance(v, Tensor) else v for k, v in batch.inputs.items()},
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=subject.tokenizer.pad_token_id or 0,
    )


def _asks_captions(batch: Batch) -> bool:
    """Whether the examples ask for captions (their objects are known) or for one token. UserError: both."""
    kinds = {example.objects is not None for example in batch.examples}
    if len(kinds) > 1:
        raise UserError("repairs measures captions or single answers: run them as two tasks")
    return kinds.pop()


def rows(subject: Any, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Every variant on one batch: "<repair>|<setting>|<control>" [b, draws, m], and "heads" [b, layers, h].

    m: of a question, whether the answer is right and whether it is a yes (NaN where it is neither yes nor no); of a
    caption, COUNTS. heads: which heads VHR chose at its first strength.
    """
    image_columns(subject, batch.inputs, batch.example_ids)
    measure = _captioned if _asks_captions(batch) else _answered
    found = {}
    chosen = torch.zeros(len(batch.examples), subject.n_layers, subject.n_heads)
    for variant in variants(options):
        parts = []
        for seed in range(variant.draws):
            with variant.open(subject, seed) as made:
                parts.append(measure(subject, batch, options))
            if variant.repair == "VHR" and not variant.control and variant.setting == options.alphas[0]:
                for layer, heads in made.heads.items():
                    chosen[:, layer] = heads.float().cpu()
        found[variant.key] = torch.stack(parts, 1)
    return found | {"heads": chosen}


def _answered(subject: Any, batch: Batch, options: Options) -> Tensor:
    """[b, 2]: right, yes."""
    logits = subject.last_logits(batch).float().cpu()
    right = logits.gather(1, batch.answers[:, None]) > logits.gather(1, batch.wrong[:, None])
    yes = []
    for example, good in zip(batch.examples, right[:, 0].tolist(), strict=True):
        said = (example.answer if good else example.wrong[0]).strip().lower()
        yes.append(float(said == "yes") if {example.answer.strip().lower(), said} <= {"yes", "no"} else np.nan)
    return torch.stack([right[:, 0].float(), torch.tensor(yes)], 1)


def _captioned(subject: Any, batch: Batch, options: Options) -> Tensor:
    """[b, 5]: the counts of greedy captions."""
    left = subject.batch(batch.examples, **{**batch.form, "padding": "left"})
    said = generate(subject, left, options.tokens)
    return torch.tensor([counts_of(example, a.text) for example, a in zip(batch.examples, said, strict=True)])


def counts_of(example: Any, text: str) -> list[float]:
    """COUNTS of one caption."""
    return [float(x) for x in (*count(text, example.objects), hallucination.word_count(text))]


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return sum(v.draws for v in variants(options)) * 5 + subject.n_layers * subject.n_heads


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """measures: repair setting control measure subset value lower upper n n_groups unit, draws_lower and draws_upper
    (2.5 and 97.5 % of a control's draws). differences: the same for repair − plain ("against" "plain") and repair −
    control ("against" the control), with p_value; control − plain in rows with control. cost: repair value (ratio)
    lower upper (quartiles) seconds. heads: layer head value, how often VHR chose it.
    """
    known = {v.key: v for v in variants(options)}
    measures, differences = [], []
    for condition, subset, part in _parts(rows):
        where = {"condition": condition, "subset": subset}
        for name, ratios in _ratios(part, known).items():
            measures += [_measure(part, known[k], name, r) | where for k, r in ratios.items()]
            differences += [row | where for row in _differences(part, known, name, ratios)]
    made = {"measures": pd.DataFrame(measures), "differences": pd.DataFrame(differences), "heads": _heads(rows)}
    if options.cost:
        columns = ["repair", "seconds", "value", "lower", "upper"]
        cost_table = pd.DataFrame(list(options.cost), columns=columns)
        made["cost"] = cost_table.assign(unit="times the plain model's time per token", n=5)
    return {name: order_columns(table) for name, table in made.items()}


def _parts(rows: Rows) -> Iterator[tuple[str, str, Rows]]:
    """Conditions, and within each the whole task and its kinds where there are several."""
    for condition, mine in rows.conditions():
        yield condition, "all", mine
        kinds = mine.examples["kind"] if "kind" in mine.examples else pd.Series(dtype=str)
        for kind in sorted(kinds.unique()) if kinds.nunique() > 1 else ():
            yield condition, kind, mine.where((kinds == kind).to_numpy())


Ratios = dict[str, tuple[np.ndarray, np.ndarray]]  # variant -> numerators and denominators [n, draws]


def _ratios(part: Rows, known: dict[str, Variant]) -> dict[str, Ratios]:
    """Measure -> variant -> numerators and denominators."""
    found: dict[str, Ratios] = {}
    for key in known:
        values = part[key]
        for name, pair in _measures_of(values, known[key].draws).items():
            found.setdefault(name, {})[key] = pair
    return found


def _measures_of(values: np.ndarray, draws: int) -> Ratios:
    per_draw = []
    for draw in range(draws):
        right, yes = values[:, draw, 0], values[:, draw, 1]
        if values.shape[2] == len(COUNTS):
            per_draw.append(hallucination.chair_ratios(*values[:, draw].T))
        elif np.isnan(yes).any():
            per_draw.append({"accuracy": (right, np.ones(len(right)))})
        else:
            truth = (yes == 1) == (right == 1)
            per_draw.append(hallucination.pope_ratios(yes == 1, truth))
    return {n: tuple(np.stack([d[n][i] for d in per_draw], 1) for i in (0, 1)) for n in per_draw[0]}  # type: ignore


def _measure(part: Rows, variant: Variant, name: str, ratio: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    groups = part.examples["group"]
    top, bottom = (x.sum(1) for x in ratio)
    found = stats.ratio_bootstrap(top, bottom, groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = ratio[0].sum(0) / ratio[1].sum(0)
    spread = np.nanquantile(each, [0.025, 0.975]) if variant.draws > 1 and np.isfinite(each).any() else (np.nan,) * 2
    return {
        **_names(variant, name),
        **{bound: float(x) for bound, x in zip(("value", "lower", "upper"), found, strict=True)},
        **{"n": len(part.examples), "n_groups": groups.nunique(), "unit": hallucination.UNITS.get(name, "share")},
        **{"draws": variant.draws, "draws_lower": float(spread[0]), "draws_upper": float(spread[1])},
    }


def _names(variant: Variant, measure: str) -> dict[str, Any]:
    return {
        "control": variant.control,
        "repair": variant.repair,
        "setting": variant.setting,
        "measure": measure,
    }


def _differences(part: Rows, known: dict[str, Variant], name: str, ratios: Ratios) -> list[dict[str, Any]]:
    groups, made = part.examples["group"], []
    pooled = {key: tuple(x.sum(1) for x in ratio) for key, ratio in ratios.items()}
    plain = next(key for key, v in known.items() if v.repair == NONE)

    def row(key: str, other: str, against: str) -> dict[str, Any]:
        found = stats.ratio_difference(pooled[key], pooled[other], groups)
        numbers = {bound: float(x) for bound, x in zip(("value", "lower", "upper", "p_value"), found, strict=True)}
        counts = {"n": len(part.examples), "n_groups": groups.nunique(), "unit": hallucination.UNITS.get(name, "share")}
        return {**_names(known[key], name), "against": against, **numbers, **counts}

    for key, variant in known.items():
        if key != plain:
            made.append(row(key, plain, "plain"))
        if variant.control:
            repaired = Variant(variant.repair, variant.setting, "", 1, variant.open).key
            made.append(row(repaired, key, variant.control))
    return made


def _heads(rows: Rows) -> pd.DataFrame:
    frames = []
    for condition, mine in rows.conditions():
        frame = summarise(mine["heads"], mine.examples["group"], head_axes(mine["heads"]), "share of examples")
        frames.append(frame.assign(condition=condition, measure="chosen by VHR"))
    return pd.concat(frames, ignore_index=True)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The papers' statements at the papers' strengths; thresholds set before any number was seen."""
    found = tables["differences"]
    found = found[(found["condition"] == found["condition"].iloc[0]) & (found["subset"] == "all")]
    captions = "CHAIR_I" in set(found["measure"])
    measure, better = ("CHAIR_I", -1) if captions else ("accuracy", 1)
    sources = {"VHR": "arXiv 2412.13949", "VAR": "arXiv 2503.03321", "ACT": "arXiv 2406.15765"}
    made = []
    for repair, source in sources.items():
        mine = found[(found["repair"] == repair) & (found["measure"] == measure) & (found["control"] == "")]
        if mine.empty:
            made.append(Claim(_said(repair, measure, better), source, "not run here", verdict(False, False)))
            continue
        first = mine[mine["setting"] == mine["setting"].iloc[0]]
        made.append(_claim(repair, measure, better, source, first))
    return made


def _said(repair: str, measure: str, better: int) -> str:
    way = "lowers" if better < 0 else "raises"
    return f"{repair} {way} {measure} against the plain model, and more than its random control does."


def _claim(repair: str, measure: str, better: int, source: str, rows: pd.DataFrame) -> Claim:
    """Holds: both paired intervals lie on the better side of 0; fails: the first lies on the other side or the effect
    is wholly within ± 1 point."""
    against = {row["against"]: row for row in rows.to_dict("records")}
    plain = against["plain"]
    random = next((row for name, row in against.items() if name.startswith("random")), None)
    low, high = sorted((better * plain["lower"], better * plain["upper"]))
    sure = low > 0 and random is not None and min(better * random["lower"], better * random["upper"]) > 0
    none = high < 0 or (low > -0.01 and high < 0.01)
    numbers = f"{plain['value']:+.3f} [{plain['lower']:+.3f}, {plain['upper']:+.3f}] against the plain model"
    if random is not None:
        numbers += f", {random['value']:+.3f} [{random['lower']:+.3f}, {random['upper']:+.3f}] against the control"
    return Claim(_said(repair, measure, better), source, f"{numbers}, n = {plain['n']}", verdict(sure, none))
