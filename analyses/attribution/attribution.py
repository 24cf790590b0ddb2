"""Attribution: which words and which parts of the picture the answer rests on

Words and blocks of the picture's patches are taken away and put back (Captum); attention is held beside what that
changes. Tables: curves, methods, completeness, parts, agreement, looked, layers, heads, tested, on_words, pictures,
on_pictures, unmapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._attribution_findings import findings
from ._game import BASELINES
from ._methods import METHODS
from ._rows import attention_rows, rows_of_batch
from ._tables import RUN_TABLES, TABLES

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 1
QUESTION = "Which words and which parts of the picture does the answer rest on, and does attention tell?"
PAPER = "arXiv 2009.07896 (Captum), 2509.18010 (half explanation)"
CLAIMS = (
    Statement(
        "attention explains",
        "Attention tells part of what the answer rests on: without the first token, the mean map of all heads at the "
        "last position correlates with saliency by occlusion above 0, and above another example's saliency, above "
        "distance alone and above the saliency permuted.",
        "arXiv 2509.18010; the controls are added here",
    ),
    Statement(
        "attention is not all",
        "Attention is an explanation by half: that correlation stays below 0.75.",
        "arXiv 2509.18010; the threshold is this project's",
        0.75,
        "below",
    ),
    Statement(
        "mean over heads",
        "The mean over heads and layers tells more than its heads do: its correlation with saliency is above the mean "
        "of theirs, and by more than with another example's saliency.",
        "arXiv 2509.18010; the control is added here",
    ),
    Statement(
        "later layers",
        "Later layers' attention tells more: the correlation of layers' mean maps with saliency is higher in the last "
        "third of the layers than in the first, and by more than with another example's saliency.",
        "arXiv 2509.18010; the control is added here",
    ),
    Statement(
        "attention loses the deletion",
        "Attention names what the answer needs worse than occlusion: with parts taken away in attention's order the "
        "answer's log-probability stays higher than in the order of what leaving each out changes.",
        "arXiv 2509.18010",
    ),
    Statement(
        "gradients find it",
        "Integrated gradients name what the answer needs: with parts taken away in their order the answer loses "
        "log-probability on average over the way, and more than in a random order.",
        "this project's bar",
    ),
)


@dataclass(frozen=True)
class Options:
    """words: groups of neighbouring words at most. blocks: of a picture's patches, on each side. baseline: what stands
    in the place of a picture: "another image", "blank" or "mean word"; in that of a word always the mean word. steps:
    of integrated gradients. samples: orders of Shapley sampling. points: of deletion and insertion curves. draws:
    random orders. at_once: changed prompts in one forward.
    """

    words: int = 24
    blocks: int = 3
    baseline: str = "another image"
    steps: int = 16
    samples: int = 2
    points: int = 5
    draws: int = 2
    at_once: int = 16


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Words (at most {options.words} groups of neighbours) and {options.blocks} × {options.blocks} blocks of a "
        "picture's patches were taken away where they enter the first layer: for a word the mean embedding of the "
        f"vocabulary came in its place, for a picture {options.baseline}. Special tokens stay. Captum attributed the "
        f"log-probability of the answer's first token: integrated gradients ({options.steps} steps), gradient × input, "
        "feature ablation (one left out), occlusion (two neighbouring words, or two by two blocks), Shapley sampling "
        f"({options.samples} orders). Curves take features away (deletion) or put them back (insertion), highest "
        f"first, in {options.points} steps, beside {options.draws} random orders. Saliency by occlusion: "
        "KL(original ‖ without the feature) of the next token; attention is that of the last position, summed over "
        "each feature, also weighted by ‖v W_O‖. Controls of its correlation: saliency of five examples of other "
        "groups (words counted from the last), the features' places alone, the saliency permuted."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """Attention of the last position on each real one, [b, h, p] aligned; and the same times ‖v W_O‖."""
    return attention_rows(layer, batch)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Everything else, example by example: see `_rows.rows_of_batch`. UserError: a task without answers, an unknown
    baseline, a number below 1.
    """
    _require(how.options)
    batch.answers  # noqa: B018  a task without answers is told before anything is run
    return rows_of_batch(subject, batch, kept, how.options)


def _require(options: Options) -> None:
    if options.baseline not in BASELINES:
        raise UserError(f"--attribution.baseline {options.baseline!r}: choose {', '.join(map(repr, BASELINES))}")
    for name in ("words", "blocks", "steps", "samples", "points", "draws", "at_once"):
        if getattr(options, name) < 1:
            raise UserError(f"--attribution.{name.replace('_', '-')} {getattr(options, name)}: at least 1 is needed")


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    features = min(options.words + options.blocks**2, positions)
    maps = 2 * len(METHODS) * features + 2 * (len(METHODS) + 3) * (options.points + 1)
    return 2 * subject.n_layers * subject.n_heads * (features + 1) + maps + 3 * positions + 84 * 84 * 3


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: attention of all heads, and one example's variants with their gradients."""
    kept = 2 * 4 * batch * subject.n_layers * subject.n_heads * positions
    return kept + costs.recording(subject, 1, positions) + costs.gradient(subject, options.at_once, positions)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
