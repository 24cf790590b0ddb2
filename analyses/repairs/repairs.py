"""Repairs: do edits of attention take hallucinations away?

Head reinforcement (`vhr`), redistribution of visual attention (`var`) and attention calibration (`act`) are context
managers that act in `model.generate`:

    with repairs.vhr(subject, alpha=2.0):
        subject.model.generate(**inputs)

The analysis measures each of them and its controls: on questions with one right and one wrong token (POPE's measures
where the answers are yes and no), and on captions of images whose objects are known (CHAIR's measures). Prompts without
an image are answered under `act` alone.

Tables: measures, differences, preconditions, cost, heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...data.progress import tracked
from ...probes.intervene.measures import Measure, logit_difference
from ...probes.prompts.batch import Batch, one_by_one
from ...probes.prompts.image_ablation import image_columns
from ...probes.runs import costs
from ...probes.runs.plan import first_condition
from ...probes.runs.results import How, Rows
from ..common.frames import held_out
from ..common.massive import learn_sinks
from . import _tables
from ._act import act, act_effects
from ._answers import Cost, answered, asks_captions, chosen_heads, cost
from ._claims import LOWERED, STATEMENTS, claims
from ._findings import findings
from ._options import require
from ._tables import CALIBRATED, WITH_SINK, Variant
from ._var import var
from ._variants import variants
from ._vhr import vhr

__all__ = ["CLAIMS", "act", "act_effects", "claims", "findings", "var", "vhr"]

VERSION = 5
CLAIMS = (*STATEMENTS, *LOWERED.values())
QUESTION = "Which repair of attention takes hallucinations away, and is it the repair or any change of that size?"
PAPER = "arXiv 2412.13949 (VHR), 2503.03321 (VAR), 2406.15765 (ACT); measures: POPE 2305.10355, CHAIR 1809.02156"
FIT_EXAMPLES = 32


@dataclass(frozen=True)
class Options:
    """Strengths and controls. The first of alphas, ps and betas is the paper's; the others are the sweep.

    alphas: below 1 the chosen heads speak lower, which has to make things worse. ps: the share that moves. draws:
    random heads (columns) per repair. tokens: of a caption or a generated answer at most. pope: yes or no by the logits
    of the two answers, or read from a generated answer as POPE's evaluate.py does. rho, mass, without_visual_sinks:
    which rows VAR edits. threshold: column mean of a hidden sink. image: how VHR's blind branch loses the image.
    choose: by which measure a head's calibration alone must not do harm. calibrated_on: on how many held-out examples
    at most, evenly over their lengths; each costs a sweep over all heads. timed: tokens of the timing, 0 for none.
    dimensions and tau of the sinks: learned on held-out examples where None.
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
    calibrated_on: int = 12
    timed: int = 12
    dimensions: tuple[int, ...] | None = None
    tau: float | None = None


class Learned(NamedTuple):
    """pictures: whether the prompts have images; dimensions and tau of the sinks; heads: those whose calibration alone
    changes answers and does no harm on average (None: all of layers 2 … L−2, where answers are captions); cost: see
    `cost`.
    """

    pictures: bool = True
    dimensions: Sequence[int] | None = None
    tau: float | None = None
    heads: Sequence[Sequence[int]] | None = None
    cost: Sequence[Cost] = ()


RETIRED = {"heads": None, "pictures": True, "cost": ()}


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    heads = "all heads of layers 2 … L−2" if learned.heads is None else _helped(learned.heads)
    act_said = f"ACT: hidden sinks above {options.threshold:g} in {heads}, chosen by {options.choose}. "
    seeing = (
        _methods_of_images(options, learned) if learned.pictures else "The prompts have no image, so ACT alone is run. "
    )
    read = "logits of the two answers" if options.pope == "logits" else "generated text, as POPE's evaluate.py reads it"
    return (
        f"The same examples were answered by the plain model and under every repair. {seeing}{act_said}What is learned "
        f"and the times were found on {held_out(fitted_on)}, ACT's heads on at most {options.calibrated_on} of these; "
        "no strength was chosen here. Answers are read from "
        f"{read}; captions and generated answers stop at {options.tokens} tokens (the papers' at 512). Controls with "
        f"random heads or columns are drawn for each example and pooled over {options.draws} draws. Intervals of "
        "differences are paired: every draw of groups serves both sides."
    )


def _helped(heads: Sequence[Sequence[int]]) -> str:
    return f"the {len(heads)} heads whose calibration changes answers and does no harm on average"


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
    examples. UserError: options that mean nothing.
    """
    require(options)
    captions = asks_captions(example for batch in batches for example in batch.examples)
    learned = Learned(bool(batches[0].where("image").any()))
    if learned.pictures:
        massive = learn_sinks(subject, batches, options.dimensions, options.tau)
        learned = learned._replace(dimensions=massive.dimensions or None, tau=massive.tau)
    if not captions:
        # Prompts have sinks in other heads: each alone runs its own.
        singles = [one for batch in first_condition(batches) for one in one_by_one(subject, batch)]
        singles = _evenly(singles, options.calibrated_on)
        effects = [_act_effects(subject, one, options) for one in tracked(singles, "calibrating heads")]
        joined = {pair: torch.cat([one[pair] for one in effects]) for pair in effects[0]}
        helped = [list(pair) for pair, value in joined.items() if bool(value.any()) and value.mean() >= 0]
        learned = learned._replace(heads=helped)
    if options.timed:
        learned = learned._replace(cost=cost(subject, batches[0], How(options, learned)))
    return learned


def _evenly(batches: list[Batch], most: int) -> list[Batch]:
    """So many of them, from all over the list."""
    count = min(most, len(batches))
    return [batches[at * len(batches) // count] for at in range(count)]


def _act_effects(subject: Any, batch: Batch, options: Options) -> dict[tuple[int, int], Tensor]:
    difference = logit_difference(batch.answers, batch.wrong)

    def right(logits: Tensor, rows: Tensor) -> Tensor:
        return (difference(logits, rows) > 0).float()

    measure: Measure = difference if options.choose == "logits" else right
    return act_effects(subject, batch, measure, threshold=options.threshold, beta=options.betas[0])


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Every variant on one batch: "<repair>|<setting>|<control>" [b, draws, m]; what a verdict needs [b]; "heads".

    m: of a question, whether the answer is right, whether it is a yes (NaN where it is neither yes nor no) and, where
    logits are read, by how much the right answer leads; of a caption, COUNTS. heads [b, layers, h]: those that VHR
    chose at its first strength, where there are images.
    """
    if how.learned.pictures:
        image_columns(subject, batch.inputs, batch.example_ids)
    found: dict[str, Tensor] = {}
    for variant, said, made in answered(subject, batch, variants(how.options, how.learned), how.options):
        found[variant.key] = said
        if variant.key == f"VHR|{how.options.alphas[0]:g}|":
            found["heads"] = chosen_heads(subject, batch, made)
        if variant.repair == "VAR" and made.visual:
            found[WITH_SINK] = torch.stack([x.float().cpu() for x in made.visual.values()], 1).mean(1)
    if how.learned.heads is not None:
        found[CALIBRATED] = torch.full((len(batch.examples),), float(len(how.learned.heads)))
    return found


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return sum(v.draws for v in variants(options, Learned())) * 5 + subject.n_layers * subject.n_heads


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: the keys and values of generation, and a pass of every variant in turn."""
    cache = costs.keys_and_values(subject, batch, positions)
    return 2 * cache + 2 * costs.forward(subject, batch, positions) + costs.logits(subject, batch, 4)


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
        ("repair", "setting", "measure", "p_value", "against", "detectable", "subset"),
    ),
    "preconditions": (_of_variants(_tables.preconditions), ("measure", "subset")),
    "heads": (_tables.heads, ("measure",)),
}
RUN_TABLES = {"cost": (_cost, ("repair", "seconds"))}
