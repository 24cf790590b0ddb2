"""Head divergence: which heads read the image?

A head's output before W_O at the position that predicts a token, with the image and without it (VHD); summed over the
most divergent heads of every layer (T-VHD of the token). Whole answers by teacher forcing: one pass with the image,
one for every way to take it away. Without an answer in the prompt, the next token alone is asked about.

Tables: heads, layers, excess, stability, words, auroc, margins, captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import image_columns, predicting
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement, judge, one_row
from ._answer_words import answer_words
from ._divergence_findings import findings
from ._divergence_heads import (
    ANOTHER_IMAGE,
    ANOTHER_QUESTION,
    LEADING,
    LEADING_EXCESS,
    RANKING,
)
from ._divergence_tables import TABLES
from ._divergence_words import STRATIFIED
from ._passes import SUMMED, WAYS, compare, passes_of, z_at

__all__ = ["TABLES", "claims", "findings"]

VERSION = 2
QUESTION = "Which heads read the image, and do hallucinated words read it less than correct ones?"
PAPER = "arXiv 2412.13949 (VHD, T-VHD); the relative and cosine forms, masking and swapping are added here"
CLAIMS = (
    Statement(
        "few heads",
        "Few heads read the image: the tenth of the heads that leads on one half of the groups holds more than 30 % of "
        "the summed divergence on the other, and more than the tenth that leads when the question is changed.",
        "arXiv 2412.13949; the control is added here",
        0.3,
    ),
    Statement(
        "the image, not the prompt",
        "The leading heads react to the image and not to any change of the prompt: the tenth that leads by relative "
        "divergence on one half of the groups diverges more without the image than under another question on the "
        "other.",
        "arXiv 2412.13949; the control is added here",
    ),
    Statement(
        "one ranking",
        "The ranking of the heads is one of the model: an example's correlates with that of other groups' above 0.8, "
        "and more than the ranking under another question does.",
        "arXiv 2412.13949; the control is added here",
        0.8,
    ),
    Statement(
        "hallucinated words",
        "Hallucinated words have a smaller T-VHD than correct ones: AUROC above 0.5 among words of the same stratum of "
        "places in the answer, and above that of its control, the divergence between two images (or two questions).",
        "arXiv 2412.13949; the control is added here",
        0.5,
    ),
)


@dataclass(frozen=True)
class Options:
    """How the image is taken away, and what T-VHD sums.

    ways: "dropped" (its tokens removed, the texts' positions move up), "masked" (positions stay, nobody reads it),
    "swapped" (an unrelated example's image in its place; also the control for the other two). The first is the one
    that the claims are about. question: the text that replaces the question in the control; "" leaves the control
    out. k: heads of each layer in T-VHD. strata: bins of equal count over the place in the answer, within which
    hallucinated and correct words are compared. bins: of the histograms.
    """

    ways: tuple[str, ...] = WAYS
    question: str = "Say something."
    k: int = 4
    strata: int = 4
    bins: int = 20


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Every prompt with its whole answer was read once with its image and once for each way of taking it away "
        f"({', '.join(options.ways)}); z is compared at the positions that predict the answer's tokens and averaged "
        f"over them. T-VHD of a token is the sum over layers of its {options.k} largest L2 divergences; a word's is "
        "its first token's, a sentence's the mean over its tokens. Words are compared within "
        f"{options.strata} strata of their place in the answer. Controls: another image in place of the image, another "
        "question in place of the question. Heads are compared with them by sign flips of whole groups, p from the "
        "largest of all heads; leading heads are chosen on one half of the groups and measured on the other."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """z at the positions that predict the answer, [b, n, h, d]: what `finish` compares the other passes with."""
    if layer.index == 0:
        image_columns(layer.subject, batch.inputs, batch.example_ids)
    return {"z": z_at(layer.z, predicting(batch)).float() if layer.attends else None}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """One pass for every way and for the control, reduced layer by layer while it runs.

    Rows: "<way>|<kind>" [b, layers, h], mean over the answer's tokens; "<way>|norms" the mean of the two norms;
    "<way>|odd", "<way>|even" over every other token (L2); "<way>|t_vhd" [b, n]; and those of `answer_words`.
    """
    seen, rows = kept.pop("z"), {}
    b, layers, n, h, _ = seen.shape
    for way, chosen, inputs, places, edit in passes_of(subject, batch, how.options):
        divergences = compare(subject, seen[chosen], inputs, places, edit, how.options.k) if chosen else {}
        for name in (*SUMMED, "t_vhd"):
            whole = torch.full((b, n) if name == "t_vhd" else (b, layers, h), torch.nan)
            if chosen:
                whole[chosen] = divergences[name]
            rows[f"{way}|{name}"] = whole
    return rows | answer_words(subject, batch)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    passes = len(options.ways) + bool(options.question)
    return passes * len(SUMMED) * subject.n_layers * subject.n_heads + (passes + 4) * positions


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: z of all layers at the answer's positions, kept, stacked and compared."""
    width = subject.n_layers * subject.n_heads * subject.d_head
    return 3 * 4 * batch * positions * width + costs.forward(subject, batch, positions)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The paper's statements on the first way of taking the image away."""
    way, stability = tables["heads"]["way"].iloc[0], tables["stability"]
    leading, excess, alike = (one_row(stability, way=way, measure=m) for m in (LEADING, LEADING_EXCESS, RANKING))
    auroc = one_row(tables["auroc"], way=way, level=STRATIFIED)
    few, image, ranking, words = CLAIMS
    told = _beside(tables, way, STRATIFIED, ANOTHER_IMAGE, ANOTHER_QUESTION)
    if auroc is None:
        told["untestable"] = "no hallucinated or no correct words here"
    return [
        judge(few, leading, **_beside(tables, way, LEADING, ANOTHER_QUESTION)),
        judge(image, excess, note=f"image {way}", untestable="" if excess is not None else f"no {ANOTHER_QUESTION}"),
        judge(ranking, alike, **_beside(tables, way, RANKING, ANOTHER_QUESTION)),
        judge(words, auroc, **told),
    ]


def _beside(tables: dict[str, pd.DataFrame], way: str, measure: str, *controls: str) -> dict[str, Any]:
    """For `judge`: the margin over the first of these controls that was measured; not testable without any."""
    for control in controls:
        margin = one_row(tables["margins"], way=way, measure=measure, control=control)
        if margin is not None:
            return {"margin": margin, "control": control, "note": f"image {way}"}
    return {"untestable": f"no {controls[0]} to compare with", "note": f"image {way}"}
