"""Sub-networks: do image tokens and text tokens use the same weights?

Weights that a modality uses most, by |W| times the norm of what they read, and how far those of images and of texts are
the same, by layer and matrix. Tables: overlap, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.readout import mlp_width
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._subnetworks_findings import findings
from ._subnetworks_rows import ROWS, SUMMED, channel_squares, some_rows
from ._subnetworks_tables import ALIKE, OWN, TABLES

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Do image tokens and text tokens use the same weights of the language model?"
PAPER = "arXiv 2405.16700 (IMA)"
SUMS = SUMMED
CLAIMS = (
    Statement(
        ALIKE,
        "Image and text use the same weights: the IoU of the weights that each uses most is above that of random masks "
        "by more than .1, and above that of the same norms at other channels.",
        "arXiv 2405.16700 (IMA); the bar and the permuted channels are this project's",
        0.1,
    ),
    Statement(
        OWN,
        "Each has weights of its own nonetheless: two halves of one kind of token share more of them than image and "
        "text do (difference of the IoU above .05), and more so than with image and text exchanged in half of the "
        "folds.",
        "this project's",
        0.05,
    ),
)


@dataclass(frozen=True)
class Options:
    """sparsity: the share of every output's weights that is not kept."""

    sparsity: float = 0.5


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "A weight's score is its size times the norm of the channel that it reads, over all image tokens or over all "
        "text tokens (without special tokens and the first of the prompt); of every output the "
        f"{options.sparsity:.0%} with the lowest scores are left out. Read: {ROWS} outputs of each matrix, drawn once. "
        "IoU: weights kept for both over weights kept for one of them. Controls: random masks of the same share; the "
        "text's norms at other channels, which leaves what the sizes of the weights share; as a ceiling, two halves "
        "of the folds of one kind of token. Folds of whole groups are left out in turn."
    )


def weights(subject: Any, options: Options) -> dict[str, Tensor]:
    """See `_subnetworks_rows.some_rows`. UserError: options."""
    if not 0 < options.sparsity < 1:
        raise UserError(f"--subnetworks.sparsity {options.sparsity}: a share between 0 and 1 is needed")
    return some_rows(subject)


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """See `_subnetworks_rows.channel_squares`."""
    return channel_squares(layer, batch)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that a fold's rows hold."""
    return 2 * 2 * subject.n_layers * (subject.d_model + subject.n_heads * subject.d_head + mlp_width(subject))


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
