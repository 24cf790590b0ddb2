"""Where object words and sentences begin in an answer, token by token."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...data.example import Example
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting

KINDS = ("correct", "hallucinated")
SENTENCE = "sentence"
# The first letter, and those behind a line or behind a full stop with its quotation marks.
START = re.compile(r"(?:^|\n|[.!?][\"'”’)]*\s)\s*(\S)")


def sentence_starts(text: str) -> list[int]:
    """The characters at which the sentences of a text begin: "A dog runs. A cat sits." -> [0, 12]."""
    return [match.start(1) for match in START.finditer(text)]


def answer_words(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """What the tokens at which heads are compared (`predicting`) are in their answers, [b, n] each.

    "correct", "hallucinated": 1 where such an object word begins, also directly behind another one. "sentence": the
    number of the sentence, from 0. "end": where the token's text ends in the answer's. NaN where none is predicted.
    """
    places = predicting(batch)
    after = (places + 1).clamp(min=0, max=batch.roles.shape[1] - 1)
    told = (places >= 0) & batch.where("answer").gather(1, after)
    begins = _beginnings(subject, batch)
    rows = {kind: begins[kind].gather(1, after).float() for kind in KINDS}
    rows[SENTENCE] = begins[SENTENCE].gather(1, after).cumsum(1).clamp(min=1).float() - 1
    rows["end"] = _ends(batch, after, told)
    return {name: row.masked_fill(~told, torch.nan) for name, row in rows.items()}


def _beginnings(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """Name -> Bool[b, p]: the tokens that hold the first letter of a span of that name."""
    none = torch.zeros_like(batch.roles, dtype=torch.bool)
    marks = {}
    if bool(batch.where("answer").any()):
        marks = subject.batch([_first_letters(example) for example in batch.examples], **batch.form).marks
    return {name: marks.get(name, none) for name in (*KINDS, SENTENCE)}


def _first_letters(example: Example) -> Example:
    """The example with marks on the first letters of its answer's words and sentences alone."""
    segments = []
    for segment in example.segments:
        marks: dict[str, list[tuple[int, int]]] = {}
        if segment.role == "answer":
            starts = {kind: [a for a, _ in segment.marks.get(kind, ())] for kind in KINDS}
            starts[SENTENCE] = sentence_starts(str(segment.content))
            marks = {name: [(a, a + 1) for a in places] for name, places in starts.items() if places}
        segments.append(segment._replace(marks=marks))
    return replace(example, segments=tuple(segments), boxes={})


def _ends(batch: Batch, after: Tensor, told: Tensor) -> Tensor:
    """Where each token's text ends in its answer's; a first space that the tokenizer drops counts."""
    ids = batch.inputs["input_ids"].cpu().gather(1, after)
    ends = torch.full(after.shape, torch.nan)
    for row, (example, own, real) in enumerate(zip(batch.examples, ids, told, strict=True)):
        tokens = own[real].tolist()
        texts = [batch.tokenizer.decode(tokens[: i + 1]) for i in range(len(tokens))]
        content = "".join(str(segment.content) for segment in example.segments if segment.role == "answer")
        dropped = len(content) - len(texts[-1]) if texts and content.endswith(texts[-1]) else 0
        ends[row, : len(texts)] = torch.tensor([dropped + len(text) for text in texts], dtype=torch.float)
    return ends
