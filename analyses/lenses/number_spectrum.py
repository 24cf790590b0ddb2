"""Numbers in waves: which periods attention and MLPs write into the logits of numbers, and whether sums need them

What a module adds to the logits of the numbers, by period: with the ten digits 10, 5, 3.33, 2.5 and 2. Then slow or
fast waves are taken out of it, and the sum is asked for again. Tables: spectrum, slow, offsets, size, filters, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ...probes.sites import SITES
from ..common.claims import Claim, Statement
from ..common.controls import DRAWS
from ..common.tested import judged
from ._number_findings import findings
from ._number_rows import MODULES, measured, numbers, parts_of
from ._number_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Does the model add in waves over the numbers, slow ones in MLPs and fast ones in attention?"
PAPER = "Fourier features for addition, arXiv 2406.03445"
CLAIMS = (
    Statement(
        "MLPs slow, attention fast",
        "MLPs write slower waves over the numbers than attention does: in the second half of the layers the slow "
        "periods have a larger share of what an MLP's number logits vary by than of an attention's (difference above "
        "0), and larger than with random words in the place of the numbers.",
        "arXiv 2406.03445 (there 521 numbers; here those that are one token)",
    ),
    Statement(
        "MLPs need slow waves",
        "Slow waves are the MLPs': without them in all MLPs the right number loses more of its lead over the other "
        "numbers than without them in all attentions (difference above 0 logits), and by more than with the same waves "
        "over the numbers in another order.",
        "arXiv 2406.03445, of errors after filtering; the lead in place of errors is this project's",
    ),
    Statement(
        "attention needs fast waves",
        "Fast waves are the attention's: without them in all attentions the right number loses more of its lead over "
        "the other numbers than without them in all MLPs (difference above 0 logits), and by more than with the same "
        "waves over the numbers in another order.",
        "arXiv 2406.03445, of errors after filtering; the lead in place of errors is this project's",
    ),
)


@dataclass(frozen=True)
class Options:
    """cut: the first component that counts as fast; component k has the period of all numbers over k (3 of ten digits,
    50 of 520 numbers in the paper). draws: of each control of the filters.
    """

    cut: int = 3
    draws: int = 4


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Numbers: 0, 1, 2 … as far as they are one token each, an even count; where numbers are spelled digit by digit "
        "these are the ten digits, and there are only five periods: 10, 5, 3.33, 2.5 and 2. What attention and MLP "
        "write at the last position is multiplied with the numbers' rows of the unembedding, without the final norm; "
        "the mean of the numbers is taken off, the rest told in waves (Fourier's basis, whole components). Slow: "
        f"components below {options.cut}, whose periods are longer. Filters take a part of the waves out of what all "
        "attentions, all MLPs or both write at the last position: the nearest vector whose number logits lack them. "
        f"Controls of shares: {DRAWS} draws of as many random words; the mean over all orders of the numbers, which is "
        f"exact. Controls of filters, {options.draws} draws each: the same waves over the numbers in another order; a "
        "random subspace of the same rank. A smooth bump around the answer is a slow wave as well: a spectrum alone "
        "does not tell the two apart."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """What attention and MLP write at the last real position, [b, d] each; None where the layer has none."""
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    there = {"attention": layer.attends, "MLP": layer.subject.decoder.has(layer.index, SITES["mlp_out"])}
    return {name: layer[MODULES[name][0]][rows, last] if has else None for name, has in there.items()}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_number_rows.measured`."""
    return measured(subject, batch, kept, how.options)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold, of as many numbers as the tokenizer has."""
    count = len(numbers(subject.tokenizer))
    variants = 3 * len(parts_of(count, options.cut)) * (1 + 2 * options.draws)
    return 2 * subject.n_layers * (count + count // 2 + 1) + 3 * variants + 5


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: a recording, and variants of the last position."""
    several = 3 * len(parts_of(len(numbers(subject.tokenizer)), options.cut)) * (1 + 2 * options.draws)
    return costs.recording(subject, batch, positions) + costs.variants(subject, several, batch, positions, 1)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
