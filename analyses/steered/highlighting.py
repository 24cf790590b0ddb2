"""Highlighting: a span of the prompt counts for more, in chosen heads (PASTA)

Prompt keys outside the span weigh alpha times as much as they did: in heads chosen on held-out examples, in every head,
in random heads of the same layers; and with another span in the chosen heads. Tables: effects, gain, heads, neutral,
tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.recording import record
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.asked import require_counts
from ..common.changed import changed
from ..common.claims import Claim, Statement
from ..common.controls import DRAWS
from ..common.frames import held_out
from ..common.key_weights import require_positive
from ..common.option_logits import OptionLogits
from ..common.selection import chosen_half, strongest
from ..common.tested import judged
from ._highlighted import gains_alone, highlighted_rows, span_of
from ._highlighting_findings import findings
from ._highlighting_tables import CHOSEN, EVERY, NEUTRAL, RUN_TABLES, TABLES
from ._neutral import neutral_losses

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 2
QUESTION = "Does a model do a task better when some of its heads are made to look at the right words?"
PAPER = "arXiv 2311.02262 (PASTA)"
FIT_EXAMPLES = 32

CLAIMS = (
    Statement(
        CHOSEN,
        "Highlighting the right span in chosen heads helps: the lead of the answer over the wrong options rises "
        "(difference above 0), by more than in random heads of the same layers and by more than with another span.",
        "arXiv 2311.02262 (PASTA): heads chosen by their own effect; both controls are this project's",
    ),
    Statement(
        EVERY,
        "Highlighting the right span in every head hurts: the lead of the answer falls below the model's own "
        "(difference below 0), and below that of the chosen heads.",
        "arXiv 2311.02262 (PASTA): steering all heads is worse than steering some",
        side="below",
    ),
    Statement(
        NEUTRAL,
        "Neutral text stays as likely when a random span of it is highlighted in the chosen heads: its loss rises by "
        "less than .1 nats a token, and by less than with every head.",
        "own bar, beside arXiv 2311.02262 (PASTA)",
        0.1,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """spans: marks; the first one that the prompts have is highlighted. alphas: what keys outside the span weigh; heads
    are chosen and claims read at the smallest. top: heads that are chosen. draws: of random heads and of other spans.
    neutral: passages of novels whose loss is read under the same edit, 0 for none.
    """

    spans: tuple[str, ...] = ("indirect_object", "subject")
    alphas: tuple[float, ...] = (0.5, 0.1, 0.01)
    top: int = 16
    draws: int = DRAWS
    neutral: int = 16


class Learned(NamedTuple):
    """heads: the chosen ones. selected_on: the groups that they come from. profile: of each example that they were
    chosen on its group, and what each head alone adds to the lead, layer by layer of n_heads. documents, losses: of
    each neutral passage its document, and for the model as it is and each edit its loss.
    """

    heads: Sequence[Sequence[int]] = ()
    n_heads: int = 1
    selected_on: Sequence[str] = ()
    profile: Sequence[tuple[str, Sequence[float]]] = ()
    documents: Sequence[str] = ()
    losses: Mapping[str, Sequence[float]] = {}


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    heads = " ".join(f"{layer}.{head}" for layer, head in learned.heads)
    return (
        "Highlighted: the rows from the span on read the prompt's other tokens α times as much as they did (ln α is "
        "added to their scores; to rows before it all keys weigh the same). The span: the first of "
        f"{', '.join(options.spans)} that the prompts mark: an oracle, told which words matter (in IOI the "
        f"answer itself). Chosen heads ({heads}): the {len(learned.heads)} that "
        "raise the answer's lead over the mean of the wrong options most when each alone is steered at "
        f"α = {min(options.alphas):g}, on one half of the groups of {held_out(fitted_on)}; examples of the other half "
        "alone are scored. Controls, at every α: as many random heads of the same layers (of the nearest of them where "
        "one has too few), and another stretch of as many tokens highlighted in the chosen heads "
        f"({options.draws} draws each). Neutral text: {len(learned.documents)} passages of novels, a random stretch of "
        "their first half highlighted."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The heads that help most when each alone is steered, and what steering them does to neutral text."""
    _require(subject, options)
    half, groups = chosen_half(subject, batches, "highlighting")
    gains, lengths = [], []
    for batch in half:
        measure, span = OptionLogits.of(batch, "highlighting"), span_of(batch, options)
        gains.append(gains_alone(record(subject, batch), span, measure, min(options.alphas)))
        lengths.append(span.sum(1).float())
    alone = torch.cat(gains)
    heads = sorted(strongest(alone.mean(0), options.top))
    names = [example.group for batch in half for example in batch.examples]
    profile = list(zip(names, alone.flatten(1).tolist(), strict=True))
    documents, losses = neutral_losses(subject, heads, round(float(torch.cat(lengths).mean())), options)
    return Learned([[*head] for head in heads], subject.n_heads, groups, profile, documents, losses)


def _require(subject: Any, options: Options) -> None:
    require_counts("highlighting", options, draws=0, neutral=0)
    if not options.alphas:
        raise UserError("--highlighting.alphas: at least one weight is needed")
    for alpha in options.alphas:
        require_positive("--highlighting.alphas", alpha)
    most = len(subject.decoder.attending) * subject.n_heads
    if not 1 <= options.top <= most:
        raise UserError(f"--highlighting.top {options.top}: the model has 1…{most} heads to choose from")


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_highlighted.highlighted_rows`; NaN for examples of the groups that heads were chosen on."""
    other = changed(subject, batch, lambda example: None if example.group in how.learned.selected_on else example)
    if other is None:
        return {}
    heads = [(int(layer), int(head)) for layer, head in how.learned.heads]
    rows = highlighted_rows(subject, other.batch, heads, how.options)
    return {name: other.spread(values) for name, values in rows.items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 2 * (1 + 2 * len(options.alphas) * (1 + options.draws)) + 1


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one run recorded, and all rows of its variants."""
    return costs.recording(subject, batch, positions) + costs.variants(
        subject, subject.n_layers, batch, positions, positions
    )


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's statements, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
