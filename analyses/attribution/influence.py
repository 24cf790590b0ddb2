"""Influence: which keys the heads need, and what picture and question say only together

Masking influence estimates what every entry of every pattern does for the answer; INTER's interaction is what picture
and question say of a word together that neither says alone. Tables: influence, influence_roles, influence_words,
influence_heads, masked, calibration, interaction, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.measures import logit_difference
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.controls import question_of
from ..common.frames import held_out
from ..common.tested import judged
from ._influence import BINS, ENTRIES, influence_rows
from ._influence_findings import findings
from ._influence_tables import TABLES
from ._interaction import interaction_rows

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Which keys do the heads need for the answer, and what do picture and question say only together?"
PAPER = "arXiv 2406.14909 (MoA), 2507.05056 (INTER)"
FIT_EXAMPLES = 16
CLAIMS = (
    Statement(
        "influence is near",
        "What heads need lies near: an entry of a query's own position or the one before has more influence on the "
        "answer than one eight positions back or more, the first token left out, and by more than with the slopes of "
        "other positions.",
        "arXiv 2406.14909 (MoA), code; the control is added here",
    ),
    Statement(
        "first order is enough",
        "The first-order estimate tells what masking does: over the entries of largest influence of each layer it "
        "correlates above 0.5 with the change by masking, and more than the next layer's estimate.",
        "arXiv 2406.14909 (MoA); measure and threshold are this project's",
        0.5,
    ),
    Statement(
        "first order is to scale",
        "The estimate is of the right size: the slope of exact changes on estimates, for random entries with less than "
        "a tenth of their row's attention, is within .2 of 1, and nearer to it than with the next layer's estimate.",
        "arXiv 2406.14909 (MoA) uses the estimate; test and threshold are this project's",
        0.2,
        "below",
    ),
    Statement(
        "picture and question together",
        "Picture and question say the answer together: its interaction is above 0, and above that of a wrong answer.",
        "arXiv 2507.05056 (INTER), code; for none stand another picture and question, the control is added here",
    ),
)


@dataclass(frozen=True)
class Options:
    """calibrated: in how many layers of each example two entries are masked for real, one by one, beside their
    estimates; it takes most of the time.
    """

    calibrated: int = 10


class Learned(NamedTuple):
    """questions: held-out ones, of which each example takes another; none in tasks without."""

    questions: Sequence[str] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    real = (
        f" In {options.calibrated} layers of each example one entry drawn at random and the one of largest influence "
        "were masked for real. Control: the estimate of the next layer's."
        if options.calibrated
        else ""
    )
    return (
        "Masking influence E = A g·(z − v) / (1 − A) is the first-order change of the answer's lead (its logit minus "
        "the wrong answer's) where a head does not read a key and its row is made to sum to 1 again; g is the gradient "
        "at what the head writes. |E| is summed by distance, at the first token apart, by role and by name. Control: "
        f"g of other positions of the same prompt.{real} Interaction: log-probability of a word with its picture and "
        "question, minus without the picture, minus without the question, plus without both; for none stand another "
        f"picture and another question of {held_out(fitted_on)}, and, as the paper has it, a picture of noise and no "
        "question."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The held-out questions."""
    asked = {question_of(example) for batch in batches for example in batch.examples}
    return Learned(sorted(asked - {""}))


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `influence_rows` and `interaction_rows`.

    UserError: a task without answers and wrong answers, a number of layers below 0.
    """
    if how.options.calibrated < 0:
        raise UserError(f"--influence.calibrated {how.options.calibrated}: at least 0 is needed, which masks nothing")
    lead = logit_difference(batch.answers, batch.wrong)
    rows = influence_rows(subject, batch, lead, calibrated=how.options.calibrated)
    return rows | interaction_rows(subject, batch, how.learned.questions)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return subject.n_layers * ((BINS + 1) * (subject.n_heads + 1) + 2 * 81 + 3 * len(ENTRIES)) + 8


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one with its graph, z and its gradient of all layers, maps of one example."""
    kept = 4 * 4 * batch * subject.n_layers * positions * subject.n_heads * subject.d_head
    maps = 6 * 4 * subject.n_heads * positions**2
    return costs.gradient(subject, batch, positions) + kept + maps + costs.logits(subject, batch, 8)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
