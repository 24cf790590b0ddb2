"""Collapse: is one repetition more still seen?

How far the last state moves when a token that stands n times at the end of a prompt stands there once more, for n that
double. Tables: distances, layers, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.model.random_weights import random_twin
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.controls import RANDOM_WEIGHTS
from ..common.tested import judged
from ._collapse_findings import findings
from ._collapse_rows import OTHER, distances, pairs, places, read, states_at, whole, with_another
from ._collapse_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Do long runs of one token end in states that can no longer be told apart?"
PAPER = "arXiv 2411.07176 (Cog attention)"
_LENGTHS = 8  # of runs, that sizes are planned for
CLAIMS = (
    Statement(
        "one more is seen less and less",
        "The more often a token has been repeated, the less one repetition more moves the last state: behind the "
        "longest run the distance is below half of that behind the shortest, and falls further than that of random "
        "weights and than that of another last token.",
        "arXiv 2411.07176 (Cog attention), style; the bar and the controls are this project's",
        threshold=0.5,
        side="below",
    ),
    Statement(
        "another token is still seen",
        "It is the repetition that is lost, not the last position: behind the longest run another last token moves the "
        "last state more than half as far as behind the shortest, and its distance falls less than that of one "
        "repetition more.",
        "this project's bar; the control of arXiv 2411.07176's collapse",
        threshold=0.5,
    ),
)


@dataclass(frozen=True)
class Options:
    """first: the shortest run; the others are twice as long each, as long as the prompt's run is longer. twin: whether
    the same is measured with random weights, which takes a second model of the same size.
    """

    first: int = 25
    twin: bool = True


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    twin = (
        f"{RANDOM_WEIGHTS}, the same configuration as its family initialises it (one draw)"
        if options.twin
        else f"none of {RANDOM_WEIGHTS}: it was not asked for"
    )
    return (
        f"Prompts end in one token written n and n + 1 times, n = {options.first}, {2 * options.first}, … Both states "
        "come from one forward of the longest run, since later tokens change nothing before them. Distance after the "
        "final norm: the largest absolute difference in each 64 channels, mean over these, divided by its value at the "
        "shortest run, example by example (the paper's measure; chunks of channels mean nothing in the residual "
        "stream, so that layers are compared by ‖a − b‖ over the mean norm). Where the states differ by rounding alone "
        "from the start, nothing is divided. Means over prompts, intervals resample repeated tokens. Controls: the "
        f"same prompts with {OTHER}, a random word in the place of the last repetition; {twin}."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """The states that enter the layer behind n and behind n + 1 repetitions [b, 2 · lengths, d]; of the last layer also
    those that leave it. UserError: options, an image, a run that is too short.
    """
    if how.options.first < 1:
        raise UserError(f"--collapse.first {how.options.first}: a run of at least one token is needed, 25 by default")
    return {**read(layer, pairs(places(batch, how.options.first)))}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows, of one repetition more and "|control" each: "apart" [b, states, lengths], relative distance in the residual
    stream; "final", after the final norm, and "chunks", the paper's [b, lengths]. NaN where a run is shorter.
    """
    at = places(batch, how.options.first)
    once, more = whole(kept).chunk(2, 2)
    rows = distances(subject, once, more) | distances(subject, more, with_another(subject, batch, at), OTHER)
    if how.options.twin:
        twin = random_twin(subject)
        once, more = states_at(twin, batch, pairs(at)).chunk(2, 2)
        rows |= distances(twin, once, more, RANDOM_WEIGHTS)
    short = at < 0
    return {
        name: values.masked_fill(short if values.ndim == 2 else short[:, None], float("nan"))
        for name, values in rows.items()
    }


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return (2 + options.twin) * _LENGTHS * (subject.n_layers + 3)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """The states that are kept, and the second model."""
    states = 3 * batch * _LENGTHS * (subject.n_layers + 1) * subject.d_model * 4
    return states + options.twin * costs.weights(subject)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
