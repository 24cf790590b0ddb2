"""Directions: the difference of means, added to the states or taken out of them

The mean state of examples with one answer minus that of the others, layer by layer, at the last position; what the
answer does when it is added there in several strengths, or projected out. Tables: sweep, quality, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import UserError
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.asked import require_counts
from ..common.claims import Claim, Statement
from ..common.frames import held_out
from ..common.selection import chosen_half
from ..common.tested import judged
from ._directed import READ, directed
from ._direction_findings import findings
from ._direction_tables import TABLES
from ._learned_directions import directions, most_frequent, neutral, states_of

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Is there a direction that makes the model say one answer, and does it need that direction to say it?"
PAPER = "difference of means, from memory; projecting out: arXiv 2406.11717, style"
FIT_EXAMPLES = 128
CLAIMS = (
    Statement(
        "adding the direction",
        "The direction steers: added in the largest strength at the layer that was best on one half of the groups, it "
        "raises the logit of its answer over the other options on the other half (difference above 0), and by more "
        "than directions of permuted labels and random ones among the states' largest components, each at its own best "
        "layer.",
        "the standard of steering by difference of means, from memory; halves and controls are this project's",
    ),
    Statement(
        "projecting it out",
        "The direction is needed: projected out at the layer where that cost most on one half of the groups, it lowers "
        "the logit of the right answer over the other on the other half (loss above 0), and by more than directions of "
        "permuted labels and random ones among the states' largest components, each at its own best layer.",
        "arXiv 2406.11717, style: there of refusal, in all layers at once; halves and controls are this project's",
    ),
)


@dataclass(frozen=True)
class Options:
    """positive: the answer that the direction stands for; the most frequent one where None. strengths: of what is
    added, in units of the states' spread along the direction. draws: of each control. components: of the states, among
    which random directions lie. texts: passages whose loss is read under the same edits, 0 for none.
    """

    positive: str | None = None
    strengths: tuple[float, ...] = (-2.0, -1.0, 1.0, 2.0)
    draws: int = 2
    components: int = 16
    texts: int = 6


class Learned(NamedTuple):
    """positive: the answer. units [kind, layer, d]: unit directions, measured, of permuted labels, random. spreads
    [layer]: of the states along the measured one. counts: examples with the answer and with another. quality: see
    `neutral`, by text. selected_on: the groups that all this comes from.
    """

    positive: str = ""
    units: Sequence[Sequence[Sequence[float]]] = ()
    spreads: Sequence[float] = ()
    counts: Sequence[int] = ()
    quality: Sequence[Any] = ()
    selected_on: Sequence[str] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    yes, no = learned.counts or (0, 0)
    return (
        f"Direction: mean state of {yes} examples with the answer {learned.positive!r} minus that of {no} others that "
        f"offer it as an option, behind each layer, at the last position, from one half of the groups of "
        f"{held_out(fitted_on)}. Strength: in standard deviations of these states along the direction, within both "
        "sets. Edits act at the last position, in one layer at a time, and every direction is added with the same "
        f"norm. Controls, {options.draws} draws each: the direction of labels permuted over groups; a random direction "
        f"in the space of the {options.components} largest components of the states. Best layers are chosen on one "
        "half of the measured groups and read on the other. Neutral text: loss of the next token in "
        f"{options.texts} passages of novels, with the least and the greatest strength and without the direction, at "
        "every position."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The directions of held-out examples and what they cost elsewhere. UserError: options, one-sided examples."""
    _require(options)
    half, groups = chosen_half(subject, batches, "directions")
    examples = [example for batch in half for example in batch.examples]
    positive = most_frequent(examples) if options.positive is None else options.positive
    states, labels, of = states_of(subject, half, positive.strip())
    units, spreads = directions(states, labels, of, options.draws, options.components)
    quality = neutral(subject, units, spreads, options) if options.texts else []
    counts = [int(labels.sum()), int((~labels).sum())]
    told = units.double().mul(1e5).round().div(1e5).tolist()  # short in the record
    return Learned(positive.strip(), told, spreads.tolist(), counts, quality, groups)


def _require(options: Options) -> None:
    require_counts("directions", options, draws=1, components=1, texts=0)
    if not options.strengths or 0 in options.strengths or max(options.strengths) < 0:
        said = " ".join(f"{one:g}" for one in options.strengths) or "nothing"
        raise UserError(f"--directions.strengths {said}: numbers other than 0 are needed, one of them above 0")


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_directed.directed`."""
    return directed(subject, batch, how.learned, how.options.strengths)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return len(READ) * (1 + subject.n_layers * (1 + 2 * options.draws) * (1 + len(options.strengths)))


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: a recording, and variants of the last position."""
    several = subject.n_layers * (1 + 2 * options.draws) * (1 + len(options.strengths))
    return costs.recording(subject, batch, positions) + costs.variants(subject, several, batch, positions, 1)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What is usually said of such directions, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
