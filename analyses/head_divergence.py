"""Head divergence: which heads read the image, and do words that nothing supports read it less?

A head's output before W_O at the position that predicts a token, with the image and without it (VHD); summed over the
most divergent heads of every layer (T-VHD of the token). Whole answers by teacher forcing: one pass with the image,
one for every way to take it away. Without an answer in the prompt, the next token alone is asked about.

Tables: heads, layers, excess, stability, words, auroc, captions; see `tables` for their columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..data.example import Example
from ..probes.attention import Edit
from ..probes.batch import Batch
from ..probes.blind import drop_image, hide_image, image_columns, moved, predicting
from ..probes.rows import Rows
from ..probes.trace import Layer, tracing
from . import metrics, stats
from .claims import Claim, verdict
from .frames import order_columns, summarise

VERSION = 1
QUESTION = "Which heads read the image, and do hallucinated words read it less than correct ones?"
PAPER = "arXiv 2412.13949 (VHD, T-VHD); the relative and cosine forms, masking and swapping are added here"
KINDS = {"l2": "norm of z", "relative": "share of the norms", "cosine": "1 − cosine"}
WAYS = ("dropped", "masked", "swapped")
QUESTION_CHANGED = "question changed"
SHOWN = 6  # captions kept for the figure


@dataclass(frozen=True)
class Options:
    """How the image is taken away, and what T-VHD sums.

    ways: "dropped" (its tokens removed, the texts' positions move up), "masked" (positions stay, nobody reads it),
    "swapped" (the image of the example's corrupt twin; examples without one are left out there). The first is the
    one that the claims are about. question: the text that replaces the question in the control; "" leaves the control
    out. k: heads of each layer in T-VHD. strata: bins of equal count over the place in the answer, within which
    hallucinated and correct words are compared. bins: of the histograms.
    """

    ways: tuple[str, ...] = WAYS
    question: str = "Say something."
    k: int = 4
    strata: int = 4
    bins: int = 20


def methods(options: Options) -> str:
    """The methods sentence of the page."""
    return (
        "Every prompt with its whole answer was read once with its image and once for each way of taking it away "
        f"({', '.join(options.ways)}); z is compared at the positions that predict the answer's tokens and averaged "
        f"over them. T-VHD of a token is the sum over layers of its {options.k} largest L2 divergences; a word's is its "
        f"first token's. Words are compared within {options.strata} strata of their place in the answer. Controls: "
        "another image in place of the image, another question in place of the question."
    )


def layer_rows(layer: Layer, batch: Batch, options: Options) -> dict[str, Tensor]:
    """z at the positions that predict the answer, [b, n, h, d]: what `finish` compares the other passes with."""
    if layer.index == 0:
        image_columns(layer.subject, batch.inputs, batch.example_ids)
    return {"z": _at(layer.z, predicting(batch)).float()}


def finish(subject: Any, batch: Batch, kept: dict[str, Tensor], options: Options) -> dict[str, Tensor]:
    """One pass for every way and for the control, reduced layer by layer while it runs.

    Rows: "<way>|<kind>" [b, layers, h], mean over the answer's tokens; "<way>|odd", "<way>|even" over every other
    token (L2); "<way>|t_vhd" [b, n]; "correct", "hallucinated" [b, n]: the first tokens of such words; "end" [b, n]:
    where each token ends in the answer's text.
    """
    seen, rows = kept.pop("z"), {}
    b, layers, n, h, _ = seen.shape
    for way, chosen, inputs, places, edit in _passes(subject, batch, options):
        found = compare(subject, seen[chosen], inputs, places, edit, options.k) if chosen else {}
        for name in (*KINDS, "odd", "even", "t_vhd"):
            whole = torch.full((b, n) if name == "t_vhd" else (b, layers, h), torch.nan)
            if chosen:
                whole[chosen] = found[name]
            rows[f"{way}|{name}"] = whole
    return rows | _words(batch)


def compare(
    subject: Any, seen: Tensor, inputs: Any, places: Tensor, edit: Edit | None = None, k: int = 4
) -> dict[str, Tensor]:
    """Divergences of one more pass from `seen` [b, layers, n, h, d], at `places` Int[b, n] (-1: no token there)."""
    there = places >= 0
    sums: dict[str, list[Tensor]] = {name: [] for name in (*KINDS, "odd", "even")}
    total = torch.zeros(places.shape)

    def on_layer(layer: Layer) -> None:
        nonlocal total
        z = _at(layer.z, places).float().cpu()
        for kind in KINDS:
            vhd = metrics.head_divergence(seen[:, layer.index], z, kind=kind)
            sums[kind].append(_mean(vhd, there))
            if kind == "l2":
                total = total + metrics.total_divergence(vhd[..., None, :], min(k, vhd.shape[-1]))
                for first, name in enumerate(("odd", "even")):
                    every_other = there & (torch.arange(there.shape[1]) % 2 == first)
                    sums[name].append(_mean(vhd, every_other))

    with tracing(subject, on_layer, {i: edit for i in range(subject.n_layers)} if edit else None):
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
    """The example with the images of its corrupt twin; None where the twin has none, or the same."""
    twin = example.corrupt
    others = [s.content for s in twin.segments if not isinstance(s.content, str)] if twin else []
    own = [s.content for s in example.segments if not isinstance(s.content, str)]
    if len(own) != len(others) or own == others or [i.size for i in own] != [i.size for i in others]:
        return None
    images = iter(others)
    segments = tuple(s if isinstance(s.content, str) else s._replace(content=next(images)) for s in example.segments)
    return replace(example, segments=segments, boxes={})


def _with_other_question(example: Example, question: str) -> Example | None:
    """The example with another text in its first question, further ones left out; None without a question."""
    asked = [i for i, s in enumerate(example.segments) if s.role == "question"]
    if not asked:
        return None
    space = example.segments[asked[0]].content[:1] if str(example.segments[asked[0]].content)[:1].isspace() else ""
    segments = [
        s._replace(content=f"{space}{question}", marks={}) if i == asked[0] else s
        for i, s in enumerate(example.segments)
        if i not in asked[1:]
    ]
    return replace(example, segments=tuple(segments))


def _words(batch: Batch) -> dict[str, Tensor]:
    """First tokens of correct and hallucinated words among the predicted tokens, and where each token's text ends."""
    places = predicting(batch)
    now, after = places.clamp(min=0), (places + 1).clamp(min=0, max=batch.roles.shape[1] - 1)
    told = (places >= 0) & batch.where("answer").gather(1, after)
    rows = {}
    for name in ("correct", "hallucinated"):
        mark = batch.marks.get(name, torch.zeros_like(batch.roles, dtype=torch.bool))
        first = mark.gather(1, after) & ~mark.gather(1, now)
        rows[name] = first.float().masked_fill(~told, torch.nan)
    ids = batch.inputs["input_ids"].cpu().gather(1, after)
    ends = torch.full(places.shape, torch.nan)
    for row, (own, real) in enumerate(zip(ids, told, strict=True)):
        words = own[real].tolist()
        lengths = [len(batch.tokenizer.decode(words[: i + 1])) for i in range(len(words))]
        ends[row, : len(lengths)] = torch.tensor(lengths, dtype=torch.float)
    return rows | {"end": ends}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    passes = len(options.ways) + bool(options.question)
    return passes * (len(KINDS) + 2) * subject.n_layers * subject.n_heads + (passes + 3) * positions
