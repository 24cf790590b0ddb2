"""Repairs: do edits of attention take hallucinations away?

Head reinforcement (`vhr`), redistribution of visual attention (`var`) and attention calibration (`act`) are context
managers that act in `model.generate`:

    with repairs.vhr(subject, alpha=2.0):
        subject.model.generate(**inputs)

The analysis measures each of them and its controls: on questions with one right and one wrong token (POPE's measures
where the answers are yes and no), and on captions of images whose objects are known (CHAIR's measures). Prompts without
an image are answered under `act` alone.

Tables: measures, differences, preconditions, cost, heads; see `tables` for their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.object_words import count
from ...probes.intervene.measures import Measure, logit_difference
from ...probes.observe.generation import generate_answers
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import image_columns
from ...probes.runs.plan import first_condition
from ...probes.runs.results import How, Rows
from ..common import hallucination
from ..common.draws import example_keys
from ..common.frames import held_out
from ..common.massive import learn_sinks
from . import _tables
from ._act import act, act_effects
from ._tables import CALIBRATED, NONE, STATEMENTS, WITH_SINK, Variant, claims
from ._var import var
from ._vhr import vhr

__all__ = ["CLAIMS", "act", "act_effects", "claims", "var", "vhr"]

VERSION = 2
CLAIMS = STATEMENTS
QUESTION = "Which repair of attention takes hallucinations away, and is it the repair or any change of that size?"
PAPER = "arXiv 2412.13949 (VHR), 2503.03321 (VAR), 2406.15765 (ACT); measures: POPE 2305.10355, CHAIR 1809.02156"
FIT_EXAMPLES = 32
# Of a repair: its name, seconds a token, their ratio to the plain model's, the ratio's quartiles.
_Cost = tuple[str, float, float, float, float]


@dataclass(frozen=True)
class Options:
    """Strengths and controls. The first of alphas, ps and betas is the paper's; the others are the sweep.

    alphas: below 1 the chosen heads speak lower, which has to make things worse. ps: the share that moves. draws:
    random heads (columns) per repair. tokens: of a caption or a generated answer at most. pope: yes or no by the logits
    of the two answers, or read from a generated answer as POPE's evaluate.py does. rho, mass, without_visual_sinks:
    which rows VAR edits. threshold: column mean of a hidden sink. image: how VHR's blind branch loses the image.
    choose: by which measure a head's calibration alone must not do harm. timed: tokens of the timing, 0 for none.
    """

    alphas: tuple[float, ...] = (2.0, 1.5, 3.0, 0.5)
    ps: tuple[float, ...] = (0.4, 0.6, 0.9)
    betas: tuple[float, ...] = (0.4, 0.7, 0.1)
    draws: int = 20
    tokens: int = 48
    pope: Literal["logits", "generated"] = "logits"
    rho: float = 0.5
    mass: float = 0.2
    without_visual_sinks: Literal["leave", "move"] = "leave"
    threshold: float = 0.1
    image: str = "dropped"
    choose: Literal["logits", "accuracy"] = "logits"
    timed: int = 12


class Learned(NamedTuple):
    """pictures: whether the prompts have images; dimensions and tau of the sinks; heads: those whose calibration alone
    changes answers and does no harm on average (None: all of layers 2 … L−2, where answers are captions); cost: see
    `cost`.
    """

    pictures: bool = True
    dimensions: Sequence[int] | None = None
    tau: float | None = None
    heads: Sequence[Sequence[int]] | None = None
    cost: Sequence[_Cost] = ()


RETIRED = {"dimensions": None, "tau": None, "heads": None, "pictures": True, "cost": ()}


def variants(options: Options, learned: Learned) -> list[Variant]:
    """The plain model, every repair at every strength, and the controls of the first strength."""
    plain = Variant(NONE, 0.0, "", 1, lambda subject, seed: nullcontext())
    seeing = [*_vhr_variants(options), *_var_variants(options, learned)] if learned.pictures else []
    heads = None if learned.heads is None else [tuple(head) for head in learned.heads]
    calibrated = [
        variant
        for beta in options.betas
        for variant in _with_random(
            "ACT", beta, options, beta == options.betas[0], act, beta=beta, threshold=options.threshold, heads=heads
        )
    ]
    return [plain, *seeing, *calibrated]


VHR_CONTROLS = {"complement": "least divergent heads", "spread": "all heads, same norm", "random": "random heads"}


def _vhr_variants(options: Options) -> list[Variant]:
    first = options.alphas[0]
    made = [_variant("VHR", alpha, vhr, alpha=alpha, image=options.image) for alpha in options.alphas]
    how: dict[str, Any] = {"alpha": first, "image": options.image}
    for heads, name in VHR_CONTROLS.items():
        draws = options.draws if heads == "random" else 1
        made.append(_variant("VHR", first, vhr, control=name, draws=draws, heads=heads, **how))
    made.append(_variant("VHR, all positions", first, vhr, positions="all", **how))
    made.append(_variant("VHR, no filter", first, vhr, filter=False, **how))
    return made


def _var_variants(options: Options, learned: Learned) -> list[Variant]:
    if not learned.dimensions or learned.tau is None:
        return []
    how: dict[str, Any] = {name: getattr(options, name) for name in ("rho", "mass", "without_visual_sinks")}
    how |= {"dimensions": learned.dimensions, "tau": learned.tau}
    parts = [_with_random("VAR", p, options, p == options.ps[0], var, p=p, **how) for p in options.ps]
    return [variant for part in parts for variant in part]


def _with_random(name: str, setting: float, options: Options, first: bool, repair: Any, **how: Any) -> list[Variant]:
    """A repair of columns, at the first strength with random columns beside it."""
    drawn = _variant(name, setting, repair, control="random columns", draws=options.draws, columns="random", **how)
    return [_variant(name, setting, repair, **how), *([drawn] if first else [])]


def _variant(name: str, setting: float, repair: Any, *, control: str = "", draws: int = 1, **how: Any) -> Variant:
    return Variant(name, setting, control, draws, lambda subject, seed: repair(subject, seed=seed, **how))


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    heads = "all heads of layers 2 … L−2" if learned.heads is None else f"the {len(learned.heads)} heads that it helps"
    act_said = f"ACT: hidden sinks above {options.threshold:g} in {heads}, chosen by {options.choose}. "
    seeing = (
        _methods_of_images(options, learned) if learned.pictures else "The prompts have no image, so ACT alone is run. "
    )
    read = "logits of the two answers" if options.pope == "logits" else "generated text, as POPE's evaluate.py reads it"
    return (
        f"The same examples were answered by the plain model and under every repair. {seeing}{act_said}What is learned "
        f"and the times were found on {held_out(fitted_on)}; no strength was chosen here. Answers are read from "
        f"{read}; captions and generated answers stop at {options.tokens} tokens (the papers' at 512). Controls with "
        f"random heads or columns are drawn for each example and pooled over {options.draws} draws. Intervals of "
        "differences are paired: every draw of groups serves both sides."
    )


def _methods_of_images(options: Options, learned: Learned) -> str:
    dims = ", ".join(map(str, learned.dimensions or ())) or "none, so VAR is left out"
    bare = "left as they are" if options.without_visual_sinks == "leave" else "edited too"
    return (
        f"VHR: image {options.image} in the blind branch; chosen heads are scaled from the last position of the prompt "
        'on, in "all positions" at every position of the prompt too, in "no filter" with outlying heads among '
        f"them. VAR: massive dimensions {dims}, τ = {learned.tau or float('nan'):.2f}, ρ = {options.rho:g}, visual "
        f"mass ≥ {options.mass:g}, layers without a visual sink are {bare}; p is the share that moves: the released "
        "configuration's 0.6 is the share kept, so it moves 0.4. "
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Whether there are images; sink dimensions and τ, ACT's heads, and what each repair costs, from held-out
    examples."""
    learned = Learned(bool(batches[0].where("image").any()))
    if learned.pictures:
        massive = learn_sinks(subject, batches)
        learned = learned._replace(dimensions=massive.dimensions or None, tau=massive.tau)
    if not _asks_captions(batches[0]):
        effects = [_act_effects(subject, batch, options) for batch in first_condition(batches)]
        joined = {pair: torch.cat([one[pair] for one in effects]) for pair in effects[0]}
        helped = [list(pair) for pair, value in joined.items() if bool(value.any()) and value.mean() >= 0]
        learned = learned._replace(heads=helped)
    if options.timed:
        learned = learned._replace(cost=cost(subject, batches[0], How(options, learned)))
    return learned


def _act_effects(subject: Any, batch: Batch, options: Options) -> dict[tuple[int, int], Tensor]:
    difference = logit_difference(batch.answers, batch.wrong)

    def right(logits: Tensor, rows: Tensor) -> Tensor:
        return (difference(logits, rows) > 0).float()

    measure: Measure = difference if options.choose == "logits" else right
    return act_effects(subject, batch, measure, threshold=options.threshold, beta=options.betas[0])


def cost(subject: Any, batch: Batch, how: How, rounds: int = 5) -> list[_Cost]:
    """Seconds a token of greedy generation (its prompt included), and its ratio to the plain model's, quartiles beside.

    Interleaved rounds on up to 8 examples; the first round is not counted.
    """
    few = subject.batch(batch.examples[:8], **{**batch.form, "padding": "left"})
    known = [v for v in variants(how.options, how.learned) if not v.control and v.repair in (NONE, "ACT", "VAR", "VHR")]
    firsts = {v.repair: v for v in reversed(known)}
    times: dict[str, list[float]] = {name: [] for name in (NONE, *sorted(set(firsts) - {NONE}))}
    for turn in range(rounds + 1):
        for name in times:
            with firsts[name].open(subject, 0):
                start = perf_counter()
                _generate_exactly(subject, few, how.options.timed)
                took = (perf_counter() - start) / how.options.timed
            if turn:
                times[name].append(took)
    rows = []
    for name, took in times.items():
        ratios = np.array(took) / np.array(times[NONE])
        low, high = np.quantile(ratios, [0.25, 0.75])
        rows.append((name, float(np.median(took)), float(np.median(ratios)), float(low), float(high)))
    return rows


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


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Every variant on one batch: "<repair>|<setting>|<control>" [b, draws, m]; what a verdict needs [b]; "heads".

    m: of a question, whether the answer is right and whether it is a yes (NaN where it is neither yes nor no); of a
    caption, COUNTS. heads [b, layers, h]: those that VHR chose at its first strength, where there are images.
    """
    if how.learned.pictures:
        image_columns(subject, batch.inputs, batch.example_ids)
    found: dict[str, Tensor] = {}
    for variant in variants(how.options, how.learned):
        found[variant.key], made = _run(subject, batch, variant, how.options)
        if variant.key == f"VHR|{how.options.alphas[0]:g}|":
            found["heads"] = _chosen(subject, batch, made)
        if variant.repair == "VAR" and made.visual:
            found[WITH_SINK] = torch.stack([x.float().cpu() for x in made.visual.values()], 1).mean(1)
    if how.learned.heads is not None:
        found[CALIBRATED] = torch.full((len(batch.examples),), float(len(how.learned.heads)))
    return found


def _run(subject: Any, batch: Batch, variant: Variant, options: Options) -> tuple[Tensor, Any]:
    """[b, draws, m], and what the last draw's repair has found."""
    measure = _captioned if _asks_captions(batch) else _read if options.pope == "generated" else _answered
    parts, made = [], None
    for draw in range(variant.draws):
        with variant.open(subject, example_keys(batch.example_ids, draw)) as opened:
            parts.append(measure(subject, batch, options))
        made = opened
    return torch.stack(parts, 1), made


def _chosen(subject: Any, batch: Batch, made: Any) -> Tensor:
    chosen = torch.zeros(len(batch.examples), subject.n_layers, subject.n_heads)
    for layer, heads in made.heads.items():
        chosen[:, layer] = heads.float().cpu()
    return chosen


def _answered(subject: Any, batch: Batch, options: Options) -> Tensor:
    """[b, 2]: right, yes; by the logits of the two answers."""
    logits = subject.last_logits(batch).float().cpu()
    right = logits.gather(1, batch.answers[:, None]) > logits.gather(1, batch.wrong[:, None])
    yes = []
    for example, good in zip(batch.examples, right[:, 0].tolist(), strict=True):
        said = (example.answer if good else example.wrong[0]).strip().lower()
        yes.append(float(said == "yes") if {example.answer.strip().lower(), said} <= {"yes", "no"} else np.nan)
    return torch.stack([right[:, 0].float(), torch.tensor(yes)], 1)


def _read(subject: Any, batch: Batch, options: Options) -> Tensor:
    """[b, 2]: right, yes; of generated answers. UserError: a question whose answer is neither yes nor no."""
    for example in batch.examples:
        if example.answer.strip().lower() not in ("yes", "no"):
            raise UserError(f"example {example.id}: --repairs.pope generated reads yes or no, not {example.answer!r}")
    left = subject.batch(batch.examples, **{**batch.form, "padding": "left"})
    yes = torch.tensor([hallucination.says_yes(said.text) for said in generate_answers(subject, left, options.tokens)])
    true = torch.tensor([example.answer.strip().lower() == "yes" for example in batch.examples])
    return torch.stack([yes == true, yes], 1).float()


def _captioned(subject: Any, batch: Batch, options: Options) -> Tensor:
    """[b, 5]: the counts of greedy captions."""
    left = subject.batch(batch.examples, **{**batch.form, "padding": "left"})
    said = generate_answers(subject, left, options.tokens)
    return torch.tensor([counts_of(example, a.text) for example, a in zip(batch.examples, said, strict=True)])


def counts_of(example: Any, text: str) -> list[float]:
    """COUNTS of one caption."""
    return [float(x) for x in (*count(text, example.objects), hallucination.word_count(text))]


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return sum(v.draws for v in variants(options, Learned())) * 5 + subject.n_layers * subject.n_heads


def _of_variants(make: Callable[[Rows, Sequence[Variant]], pd.DataFrame | None]) -> Any:
    """A maker by the variants that the run had."""
    return lambda rows, how: make(rows, variants(how.options, how.learned))


def _cost(rows: Rows, how: How) -> pd.DataFrame | None:
    """repair value (ratio) lower upper (quartiles) seconds."""
    if not how.learned.cost:
        return None
    table = pd.DataFrame(list(how.learned.cost), columns=["repair", "seconds", "value", "lower", "upper"])
    return table.assign(unit="times the plain model's time per token", n=5)


TABLES = {
    "measures": (
        _of_variants(_tables.measures),
        ("repair", "setting", "measure", "draws", "draws_lower", "draws_upper", "subset"),
    ),
    "differences": (
        _of_variants(_tables.differences),
        ("repair", "setting", "measure", "p_value", "against", "subset"),
    ),
    "preconditions": (_of_variants(_tables.preconditions), ("measure", "subset")),
    "heads": (_tables.heads, ("measure",)),
}
RUN_TABLES = {"cost": (_cost, ("repair", "seconds"))}
