"""When the image may go: behind which layer its tokens are no longer needed

Image tokens are removed behind one layer after the other, their positions kept: no text behind them reads them in the
layers above. Tables: exits, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._exit_findings import findings
from ._exit_rows import CUT, READ, exits
from ._exit_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Behind which layer may the image tokens be removed?"
PAPER = "arXiv 2411.19628 (DyVTE)"
CLAIMS = (
    Statement(
        "the image may go",
        "Behind two thirds of the layers the image is no longer needed: with its tokens removed there more than 90 % "
        "of the answer's greedy tokens stay, and more than when they are removed before the first layer.",
        "arXiv 2411.19628 (DyVTE), style; depth, bar and the blind floor are this project's",
        threshold=0.9,
    ),
    Statement(
        "the image is used before",
        "Before the middle the image is still being read: removing it behind a quarter of the layers instead of two "
        "thirds costs loss (difference above 0), and more than removing as many random text tokens does.",
        "arXiv 2411.19628 (DyVTE), style; the control is added here",
    ),
)


@dataclass(frozen=True)
class Options:
    """None."""


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Exit behind l layers: in all layers above, text behind the image does not read the image's columns; "
        "positions stay as they are. Agreement: the share of the answer's greedy tokens that are those of the whole "
        "prompt. Allowed, as in the released code: all are, and the answer's loss is below 1.03 times the clean one. "
        "Exit behind 0 layers: the blind floor. Controls: the keys and values of another image in the image's place; "
        "as many random text tokens removed, at most half of the text. Where the answer is not written yet, its first "
        "token is read."
    )


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows "exit|<control>" [b, exits, READ], see `_exit_rows`. UserError: an example without an image."""
    missing = ~batch.where("image").any(1)
    if bool(missing.any()):
        name = batch.example_ids[int(missing.nonzero()[0])]
        raise UserError(f"example {name} has no image tokens: visual_exit needs a task with pictures (--task scenes)")
    return {f"exit|{control}": values for control, values in exits(subject, batch).items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return (len(CUT) + 1) * (subject.n_layers + 1) * len(READ)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: recordings of both images, and a stack of variants."""
    recordings = 2 * costs.recording(subject, batch, positions)
    return recordings + costs.variants(subject, subject.n_layers, batch, positions, positions)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
