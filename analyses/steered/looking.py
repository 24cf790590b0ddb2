"""Looking: the picture is read more, or less, and the answers with it

Rows behind the picture read its tokens several times as much: in the heads that read it most, in every head, and only
where the gaze moves to as the question is read. Tables: effects, levels, draws, neutral, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.changed import changed
from ..common.claims import Claim, Statement
from ..common.controls import DRAWS
from ..common.frames import held_out
from ..common.key_weights import gaze_layers
from ..common.selection import chosen_half
from ..common.tested import judged
from ._gazes import source_layer
from ._looked import FEW, READ, looked
from ._looking_findings import findings
from ._looking_fit import best_strengths, losses_of_text, reading_heads, require
from ._looking_tables import ABSENT, ALL, GAZED, HEADS_HELP, LESS, RUN_TABLES, TABLES, TEXT

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 1
QUESTION = "Does making the model look more at its picture help it?"
PAPER = "arXiv 2510.22067 (GIFT), style"
FIT_EXAMPLES = 32

CLAIMS = (
    Statement(
        HEADS_HELP,
        "Reading the picture more in the heads that read it most helps: the lead of the answer over the wrong options "
        "rises (difference above 0), by more than in random heads of the same layers and by more than with a blank "
        "picture in its place.",
        "own statement of what arXiv 2510.22067 (GIFT) and 2503.03321 (VAR) rest on; all controls are this project's",
    ),
    Statement(
        ALL,
        "Reading the picture more in every head helps: the lead of the answer rises (difference above 0), and by more "
        "than with a blank picture in its place.",
        "own statement of what arXiv 2510.22067 (GIFT) and 2503.03321 (VAR) rest on; the control is this project's",
    ),
    Statement(
        LESS,
        "Reading the picture less in every head hurts: at the smallest factor the lead of the answer falls (difference "
        "below 0), and by more than with a blank picture in its place.",
        "own bar: the other direction of the same edit",
        side="below",
    ),
    Statement(
        GAZED,
        "Reading the patches more that the gaze moves to helps: the lead of the answer rises (difference above 0), by "
        "more than with the same weights at other patches and by more than with the map of another image.",
        "arXiv 2510.22067 (GIFT), style; both controls are this project's",
    ),
    Statement(
        ABSENT,
        "Reading the patches more that the gaze moves to keeps the model from seeing what is not there: where the "
        "right answer is no, its lead over yes rises (difference above 0), by more than with the same weights at other "
        "patches and by more than with a blank picture in its place.",
        "arXiv 2510.22067 (GIFT): fewer hallucinations, there of captions; measure and controls are this project's",
    ),
    Statement(
        TEXT,
        "Text behind a picture that it has nothing to do with stays as likely when the picture is read more in the "
        "chosen heads: its loss rises by less than .1 nats a token, and by less than with every head.",
        "own bar",
        0.1,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """factors: how many times as much the picture is read, below 1 less. alphas: of the gaze map, whose patches are
    read exp(alpha · map) times as much. word: mark of the question's words whose gaze is followed, all where none has
    it. top: heads that are chosen. draws: of random heads; of the map at other patches at most FEW. texts: passages of
    novels whose loss is read behind a picture under the same edits, 0 for none.
    """

    factors: tuple[float, ...] = (0.5, 2.0, 4.0, 8.0)
    alphas: tuple[float, ...] = (1.0, 2.0, 5.0)
    word: str = "asked_word"
    top: int = 16
    draws: int = DRAWS
    texts: int = 8


class Learned(NamedTuple):
    """heads: the chosen ones. strengths: of each edit, the one at which claims are read. selected_on: the groups that
    these come from. source, gazing: the layer that the gaze map is read in, the layers where it is used. documents,
    losses: of each passage its document, and for the model as it is and each edit its loss.
    """

    heads: Sequence[Sequence[int]] = ()
    strengths: Mapping[str, float] = {}
    selected_on: Sequence[str] = ()
    source: int = 0
    gazing: Sequence[int] = ()
    documents: Sequence[str] = ()
    losses: Mapping[str, Sequence[float]] = {}


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    heads = " ".join(f"{layer}.{head}" for layer, head in learned.heads)
    few = min(FEW, options.draws)
    at = ", ".join(f"{edit} {strength:g}" for edit, strength in learned.strengths.items())
    layers = f"{learned.gazing[0]}…{learned.gazing[-1]}" if learned.gazing else "none"
    return (
        "Edited: the rows behind the picture read its tokens some factor times as much (ln of it is added to their "
        f"scores). Chosen heads ({heads}): the {len(learned.heads)} that give the picture the largest share of the "
        f"attention of the position that answers, on one half of the groups of {held_out(fitted_on)}; examples of the "
        f"other half alone are scored. Gaze map: how much each patch gains in layer {learned.source} as the words of "
        "the question are read, scaled to 0…1 for each picture and question; patches are read exp(α · map) times as "
        f"much in every head of layers {layers}. Claims are read at the strength that was best on the held-out half: "
        f"{at}. Controls there: as many random heads of the same layers ({options.draws} draws); the map's values at "
        f"other patches ({few} draws). Also: the map of the same question about another image; the same edit with a "
        f"grey picture. Text: {len(learned.documents)} passages of novels behind pictures of the task ({few} draws of "
        "heads)."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The heads that read the picture most, the best strengths, and what they do to text of which nothing is asked."""
    require(subject, options)
    half, groups = chosen_half(subject, batches, "looking")
    heads = reading_heads(subject, half, options.top)
    strengths = best_strengths(subject, half, heads, options)
    documents, losses = losses_of_text(subject, half, heads, strengths, options)
    gazing = gaze_layers(subject.n_layers)
    return Learned([[*head] for head in heads], strengths, groups, source_layer(subject), gazing, documents, losses)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_looked.looked`; NaN for examples of the groups that heads and strengths were chosen on."""
    other = changed(subject, batch, lambda example: None if example.group in how.learned.selected_on else example)
    if other is None:
        return {}
    rows = looked(subject, other.batch, how.learned, how.options)
    return {name: other.spread(values) for name, values in rows.items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    strengths = 2 * len(options.factors) + len(options.alphas)
    return len(READ) * (2 * (1 + strengths) + options.draws + FEW + 1) + 2


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one run recorded, and all rows of its variants."""
    several = 2 * len(options.factors) + len(options.alphas) + options.draws + FEW + 1
    return costs.recording(subject, batch, positions) + costs.variants(subject, several, batch, positions, positions)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What is said of reading the picture more, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
