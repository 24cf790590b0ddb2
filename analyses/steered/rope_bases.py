"""Rotary bases: text read with other bases than the trained one, and with several mixed (Attention Buckets)

One forward for each base, each with its own keys; the next token from the mean of their logits, weighted by the softmax
over bases of the largest logit. Tables: changes, levels, weights, waveform, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.rope import own_base, rotary_frequencies
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from .. import metrics
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._base_findings import findings
from ._base_tables import CLOSE, HELPS, RIGHT, RUN_TABLES, TABLES
from ._based import AT_ONCE, DOUBLINGS, FAR, READ, STEP, WITHIN, based, kinds

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 1
QUESTION = "Does a model read text better when several rotary bases are mixed?"
PAPER = "arXiv 2312.04455 (Attention Buckets)"

CLAIMS = (
    Statement(
        HELPS,
        "Mixing rotary bases helps: the loss of the next token falls below that with the trained base (difference "
        "below 0), and below that of as many bases within 1 % of the trained one, mixed alike.",
        "arXiv 2312.04455 (Attention Buckets), there by right calls of tools; the control is this project's",
        side="below",
    ),
    Statement(
        RIGHT,
        "Mixing rotary bases makes the right next token more likely: its probability rises above that with the "
        "trained base (difference above 0), and above that of as many bases within 1 % of the trained one.",
        "arXiv 2312.04455 (Attention Buckets), there by right calls of tools; the control is this project's",
    ),
    Statement(
        CLOSE,
        "Mixing rotary bases costs little: the loss of the next token rises by less than .05 nats, and by less than "
        "with the largest of the bases alone.",
        "own bar, beside arXiv 2312.04455 (Attention Buckets)",
        0.05,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """factors: the bases that are mixed, in units of the trained one. positions: of a text, evenly spaced, whose next
    token is read; of a prompt with an answer its tokens are.
    """

    factors: tuple[float, ...] = (1.0, 1.75, 1.8, 1.9, 2.0, 2.5)
    positions: int = 64


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    factors = ", ".join(f"{factor:g}" for factor in options.factors)
    return (
        f"Bases: the trained one times {factors} (the paper's, there of 10,000). Each has a forward of its own. Mixed: "
        "the mean of the bases' logits, weighted by the softmax over bases of each one's largest logit at that token; "
        "beside it the mean of their distributions. Control: as many bases evenly between "
        f"{1 - WITHIN:g} and {1 + WITHIN:g} times the trained one, mixed alike. Read: of a text the next token at "
        f"{options.positions} evenly spaced positions, of a prompt with an answer its tokens. Context: how many tokens "
        "the model has read by then, in doublings. Sums over tokens are divided last; intervals are over groups."
    )


def weights(subject: Any, options: Options) -> dict[str, Tensor]:
    """ "waveform" [base, distance]: `metrics.rope_waveform` of every base, from distance 0 in steps of STEP. UserError:
    options, or a model whose positions no base gives.
    """
    _require(options)
    own, width = own_base(subject), 2 * len(rotary_frequencies(subject))
    distances = torch.arange(0, FAR, STEP)
    waves = [metrics.rope_waveform(distances, own * factor, width) for factor in options.factors]
    return {"waveform": torch.stack(waves).float()}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_based.based`."""
    return based(subject, batch, how.options.factors, how.options.positions)


def _require(options: Options) -> None:
    factors = options.factors
    if not factors or min(factors) <= 0 or len({*factors}) < 2:
        said = " ".join(f"{one:g}" for one in factors) or "nothing"
        raise UserError(f"--rope_bases.factors {said}: at least two different numbers above 0 are needed")
    if options.positions < 1:
        raise UserError(f"--rope_bases.positions {options.positions}: at least 1 is needed")


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return (len(READ) * len(kinds(options.factors)) + 1) * DOUBLINGS + len(options.factors)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one run recorded, all rows of its variants, and logits of a few tokens."""
    count = 1 + 2 * len(options.factors)
    states = 4 * count * batch * options.positions * subject.d_model
    logits = costs.logits(subject, count * AT_ONCE, 4)
    several = costs.variants(subject, count, batch, positions, positions)
    return costs.recording(subject, batch, positions) + several + states + logits


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's statement, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
