"""Head divergence: which heads read the image?

A head's output before W_O at the position that predicts a token, with the image and without it (VHD); summed over the
most divergent heads of every layer (T-VHD of the token). Whole answers by teacher forcing: one pass with the image,
one for every way to take it away. Without an answer in the prompt, the next token alone is asked about.

Tables: heads, layers, excess, stability, words, auroc, margins, captions; see `tables` for their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...data.example import Example
from ...probes.model.attention import Edit
from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import drop_image, hide_image, image_columns, moved, predicting
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.claims import Claim, Statement, judge, one_row
from . import _divergence_heads, _divergence_words
from ._answer_words import answer_words
from ._divergence_heads import (
    ANOTHER_IMAGE,
    ANOTHER_QUESTION,
    KINDS,
    LEADING,
    LEADING_EXCESS,
    QUESTION_CHANGED,
    RANKING,
)
from ._divergence_words import STRATIFIED

VERSION = 2
QUESTION = "Which heads read the image, and do hallucinated words read it less than correct ones?"
PAPER = "arXiv 2412.13949 (VHD, T-VHD); the relative and cosine forms, masking and swapping are added here"
WAYS = ("dropped", "masked", "swapped")
SUMMED = (*KINDS, "norms", "odd", "even")
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


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """z at the positions that predict the answer, [b, n, h, d]: what `finish` compares the other passes with."""
    if layer.index == 0:
        image_columns(layer.subject, batch.inputs, batch.example_ids)
    return {"z": _at(layer.z, predicting(batch)).float()}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """One pass for every way and for the control, reduced layer by layer while it runs.

    Rows: "<way>|<kind>" [b, layers, h], mean over the answer's tokens; "<way>|norms" the mean of the two norms;
    "<way>|odd", "<way>|even" over every other token (L2); "<way>|t_vhd" [b, n]; and those of `answer_words`.
    """
    seen, rows = kept.pop("z"), {}
    b, layers, n, h, _ = seen.shape
    for way, chosen, inputs, places, edit in _passes(subject, batch, how.options):
        divergences = compare(subject, seen[chosen], inputs, places, edit, how.options.k) if chosen else {}
        for name in (*SUMMED, "t_vhd"):
            whole = torch.full((b, n) if name == "t_vhd" else (b, layers, h), torch.nan)
            if chosen:
                whole[chosen] = divergences[name]
            rows[f"{way}|{name}"] = whole
    return rows | answer_words(subject, batch)


def compare(
    subject: Any, seen: Tensor, inputs: Any, places: Tensor, edit: Edit | None = None, k: int = 4
) -> dict[str, Tensor]:
    """Divergences of one more pass from `seen` [b, layers, n, h, d], at `places` Int[b, n] (-1: no token there)."""
    there = places >= 0
    sums: dict[str, list[Tensor]] = {name: [] for name in SUMMED}
    total = torch.zeros(places.shape)

    def on_layer(layer: Layer) -> None:
        nonlocal total
        z, with_image = _at(layer.z, places).float().cpu(), seen[:, layer.index]
        sums["norms"].append(_mean((z.norm(dim=-1) + with_image.norm(dim=-1)) / 2, there))
        for kind in KINDS:
            vhd = metrics.head_divergence(with_image, z, kind=kind)
            sums[kind].append(_mean(vhd, there))
            if kind == "l2":
                total = total + metrics.total_divergence(vhd[..., None, :], min(k, vhd.shape[-1]))
                for first, name in enumerate(("odd", "even")):
                    every_other = there & (torch.arange(there.shape[1]) % 2 == first)
                    sums[name].append(_mean(vhd, every_other))

    with tracing(subject, on_layer, dict.fromkeys(range(subject.n_layers), edit) if edit else None):
        subject.forward(inputs)
    rows = {name: torch.stack(parts, 1) for name, parts in sums.items()}
    return rows | {"t_vhd": total.masked_fill(~there, torch.nan)}


def _at(z: Tensor, places: Tensor) -> Tensor:
    """z [b, p, h, d] at places [b, n] -> [b, n, h, d], zeros where there is none."""
    rows = torch.arange(len(z), device=z.device)[:, None]
    return z[rows, places.to(z.device).clamp(min=0)] * (places >= 0).to(z.device)[..., None, None]


def _mean(vhd: Tensor, there: Tensor) -> Tensor:
    """[b, n, h] -> [b, h], the mean over the tokens that are there; NaN without one."""
    return torch.where(there[..., None], vhd, 0.0).sum(1) / there.sum(1, keepdim=True)


Pass = tuple[str, list[int], Any, Tensor, Edit | None]


def _passes(subject: Any, batch: Batch, options: Options) -> Iterator[Pass]:
    """Name, examples, inputs, predicting positions and edit of every further pass."""
    everyone, places = list(range(len(batch.examples))), predicting(batch)
    for way in options.ways:
        if way == "dropped":
            blind, stayed = drop_image(subject, batch.inputs)
            yield way, everyone, blind, moved(stayed, places), None
        elif way == "masked":
            yield way, everyone, batch, places, hide_image(image_columns(subject, batch.inputs))
        elif way == "swapped":
            yield _variant(subject, batch, way, [_with_other_image(e) for e in batch.examples])
        else:
            raise ValueError(f"unknown way {way!r}: one of {', '.join(WAYS)}")
    if options.question:
        changed = [_with_other_question(e, options.question) for e in batch.examples]
        yield _variant(subject, batch, QUESTION_CHANGED, changed)


def _variant(subject: Any, batch: Batch, name: str, changed: list[Example | None]) -> Pass:
    """A pass over those examples that have a variant, made of the changed examples."""
    chosen = [i for i, example in enumerate(changed) if example is not None]
    if not chosen:
        return name, [], None, torch.empty(0), None
    other = subject.batch([e for e in changed if e is not None], **batch.form)
    n = predicting(batch).shape[1]
    return name, chosen, other, pad(predicting(other), (0, n), value=-1)[:, :n], None


def _with_other_image(example: Example) -> Example | None:
    """The example with the images of an unrelated one; None where there are none."""
    if not example.unrelated:
        return None
    others = iter(example.unrelated)
    segments = tuple(s if isinstance(s.content, str) else s._replace(content=next(others)) for s in example.segments)
    return replace(example, segments=segments, boxes={})


def _with_other_question(example: Example, question: str) -> Example | None:
    """The example with another text in its first question, further ones left out; None without a question."""
    asked = [i for i, s in enumerate(example.segments) if s.role == "question"]
    if not asked:
        return None
    own = str(example.segments[asked[0]].content)
    space = own[: len(own) - len(own.lstrip())]
    segments = [
        s._replace(content=f"{space}{question}", marks={}) if i == asked[0] else s
        for i, s in enumerate(example.segments)
        if i not in asked[1:]
    ]
    return replace(example, segments=tuple(segments))


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    passes = len(options.ways) + bool(options.question)
    return passes * len(SUMMED) * subject.n_layers * subject.n_heads + (passes + 4) * positions


def _by_way(make: Callable[[Rows, str, Any], pd.DataFrame]) -> Callable[[Rows, How], pd.DataFrame | None]:
    """A maker whose table has the rows of every way that was measured, with a column way."""

    def maker(rows: Rows, how: How) -> pd.DataFrame | None:
        ways = [way for way in (*how.options.ways, QUESTION_CHANGED) if f"{way}|l2" in rows.values]
        frames = [make(rows, way, how.options).assign(way=way) for way in ways]
        return pd.concat(frames, ignore_index=True) if frames else None

    return maker


def _margins(rows: Rows, how: How) -> pd.DataFrame | None:
    """A number of stability or auroc minus the same number of a control, paired."""
    parts = [_by_way(make)(rows, how) for make in (_divergence_heads.margins, _divergence_words.margins)]
    parts = [part for part in parts if part is not None]
    return pd.concat(parts, ignore_index=True) if parts else None


TABLES = {
    "heads": (_by_way(_divergence_heads.heads), ("measure", "way")),
    "layers": (_by_way(_divergence_heads.layers), ("measure", "way")),
    "excess": (_by_way(_divergence_heads.excess), ("measure", "p_family", "way")),
    "stability": (_by_way(_divergence_heads.stability), ("measure", "way")),
    "words": (_by_way(_divergence_words.histograms), ("bin", "kind", "level", "left", "right", "way")),
    "auroc": (_by_way(_divergence_words.auroc), ("level", "n_correct", "n_hallucinated", "way")),
    "captions": (_by_way(_divergence_words.captions), ("example", "position", "token", "kind", "way")),
    "margins": (_margins, ("measure", "way")),
}


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
