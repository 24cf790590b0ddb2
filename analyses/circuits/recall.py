"""Factual recall: heads bring the subject, an MLP works on what they bring, the last layer doubts the answer

Movers, the heads that the answer needs most on the path to the output, are chosen on held-out examples; so is a late
MLP. What the MLP writes at the last position is regressed on what the movers write (a scalar for each, a vector b for
each kind of prompt), fitted on one half of the groups and scored on the other. Tables: task, heads, copied, weights,
redirection, direct, last, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.direct_attribution import direct_attribution
from ...probes.intervene.paths import path_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.contrast import PARTS, contrast, task_rows
from ..common.controls import UNIFORM
from ..common.frames import held_out
from ..common.selection import chosen_half
from ..common.tested import judged
from ._looked import attention_on_marks, uniform_on_marks
from ._movers import listed, movers
from ._recall_findings import findings
from ._recall_rows import DRAWS, copied_rows, direct_rows, readers, words_of
from ._recall_tables import DIRECT, TABLES
from ._recall_tested import ATTENTION, COPIED, LAST_HEADS, LAST_MLP, READ, REDIRECTED

__all__ = ["TABLES", "findings"]

VERSION = 2
QUESTION = "How does a fact get from its subject to the answer: which heads bring it, and what does an MLP make of it?"
PAPER = "arXiv 2403.19521 (Interpreting Key Mechanisms of Factual Recall), in its manner"
FIT_EXAMPLES = 48
CLAIMS = (
    Statement(
        READ,
        "Movers bring the topic: from the last position they give the subject's tokens more attention than uniform "
        "attention does (difference above 0), and more than random heads of the same layers do.",
        "arXiv 2403.19521, in its manner; attention stands for what a head carries",
    ),
    Statement(
        COPIED,
        "A late MLP works on what the movers bring: a sum of the movers' outputs, a scalar for each, tells more than "
        "half of what varies in its output from prompt to prompt (R² on other groups), more than random heads of the "
        "same layers and more than the movers' outputs at other prompts.",
        "arXiv 2403.19521, in its manner; the threshold is this project's",
        0.5,
    ),
    Statement(
        REDIRECTED,
        "What the MLP adds whatever the subject is, b, points to the answer: it raises the answer's logit above the "
        "vocabulary's mean, by more than that of random words and of answers of other relations.",
        "arXiv 2403.19521, in its manner",
    ),
    Statement(
        LAST_MLP,
        "The last layer doubts the answer: its MLP lowers the answer's logit, against the vocabulary's mean, and by "
        "more than that of the twin's answer.",
        "arXiv 2403.19521 (anti-overconfidence), in its manner",
        0.0,
        "below",
    ),
    Statement(
        LAST_HEADS,
        "The last layer doubts the answer: its heads together lower the answer's logit, against the vocabulary's mean, "
        "and by more than that of the twin's answer.",
        "arXiv 2403.19521 (anti-overconfidence), in its manner",
        0.0,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """movers: how many heads. mlp: the layer whose MLP is regressed on them; found on held-out examples where None."""

    movers: int = 4
    mlp: int | None = None


class Learned(NamedTuple):
    """heads: the movers, (layer, head). mlp: the layer. selected_on: the groups that both come from."""

    heads: Sequence[Sequence[int]] = ()
    mlp: int = -1
    selected_on: Sequence[str] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    given = "given" if options.mlp is not None else "that writes most for the answer against the twin's, in the last "
    late = given if options.mlp is not None else given + "third of the layers but not the last one"
    return (
        f"Twin: the same words about another subject. MLP: that of layer {learned.mlp}, {late}. Movers "
        f"({listed(learned.heads)}): of the heads up to there those whose path to the output is worth most to the "
        f"answer's lead over the twin's answer, their z taken from the twin, all other heads frozen. Both were chosen "
        f"on groups that are not scored, of {held_out(fitted_on)}. Regression at the last position: what the MLP adds "
        "to the residual ≈ Σ w · (what each mover adds) + b, least squares on one half of the groups, w one number for "
        "each mover, b one vector for each relation and template; R² on the other half counts what varies around the "
        f"kind's mean. Beside it {DRAWS} draws of random heads of the same layers, and the movers' outputs at prompts "
        "of other groups, each fitted anew. Logits are direct ones, the final norm's scale held as it is, and are "
        "counted from the mean over the vocabulary."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The MLP, and the heads up to it that the answer needs most. UserError: options that do not fit the model."""
    _require(subject, options)
    half, groups = chosen_half(subject, batches, "recall")
    layer = _late(subject, half) if options.mlp is None else options.mlp
    return Learned(movers(subject, half, options.movers, until=layer, helping=True), layer, groups)


def _require(subject: Any, options: Options) -> None:
    if options.movers < 1:
        raise UserError(f"--recall.movers {options.movers}: at least 1 is needed")
    if options.mlp is not None and not 0 <= options.mlp < subject.n_layers:
        raise UserError(f"--recall.mlp {options.mlp}: the model has layers 0 to {subject.n_layers - 1}")


def _late(subject: Any, batches: Sequence[Batch]) -> int:
    """The MLP that writes most for the answer against the twin's, in the last third without the last layer."""
    found = [contrast(subject, batch) for batch in batches]
    written = torch.cat([direct_attribution(subject, one.base, one.measure).mlps for one in found], 1).mean(1)
    end = max(subject.n_layers - 1, 1)
    start = min(subject.n_layers * 2 // 3, end - 1)
    return start + int(written[start:end].argmax())


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """The task's own numbers, paths to the output and direct logits by head, and what movers, MLP and words write."""
    found = contrast(subject, batch)
    words = words_of(subject, found)
    rows = task_rows(found) | _looks(subject, batch)
    rows[f"head|{DIRECT}"] = path_sweep(subject, found.base, found.donor, measure=found.measure).effects
    rows |= {f"read|{name}": read for name, read in readers(subject, found.base, words).items()}
    return rows | copied_rows(subject, found.base, how.learned) | direct_rows(subject, found.base, words)


def _looks(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """Attention of the last position on the subject, and what uniform attention gives it; of tasks that mark it."""
    if "subject" not in batch.marks:
        return {}
    on, alike = attention_on_marks(subject, batch), uniform_on_marks(batch)
    return {f"head|{ATTENTION}": on["subject"], UNIFORM: alike["subject"]}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    vectors = (1 + DRAWS) * options.movers + 4
    return vectors * subject.d_model + subject.n_layers * (4 * subject.n_heads + 2) + 6


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded, and all heads in turn at the last position."""
    heads = costs.variants(subject, subject.n_layers * subject.n_heads, batch, 1, positions)
    return 2 * costs.recording(subject, batch, positions, PARTS.values()) + heads


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
