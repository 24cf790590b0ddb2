"""The stretch of a prompt that its question stands in, and the words of it that name what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ...probes.prompts.batch import Batch


class Stretch(NamedTuple):
    """positions: the token before the question and the question's. words: those that are followed, counted from the
    question's first.
    """

    positions: Int[Tensor, " n"]
    words: Int[Tensor, " w"]


@lru_cache(maxsize=4)  # every layer asks for the same
def stretches(batch: Batch, mark: str) -> list[Stretch | None]:
    """Of each example the first unbroken run of its question, its marked words, or all where none has that mark.

    A word directly behind the image is left out: before it nothing was read of the text. None: no such run.
    """
    question, marked = batch.where("question"), batch.marks.get(mark)
    barred = batch.where("image") | batch.where("image_separator") | ~batch.mask
    return [_stretch(question[i], barred[i], None if marked is None else marked[i]) for i in range(len(question))]


def _stretch(question: Tensor, barred: Tensor, marked: Tensor | None) -> Stretch | None:
    asked = question.nonzero()[:, 0].tolist()
    if asked and (asked[0] == 0 or bool(barred[asked[0] - 1])):
        asked = asked[1:]
    run = [p for i, p in enumerate(asked) if p == asked[0] + i]
    if not run:
        return None
    positions = torch.arange(run[0] - 1, run[-1] + 1)
    named = torch.zeros(len(run), dtype=torch.bool) if marked is None else marked[positions[1:]]
    return Stretch(positions, (named if bool(named.any()) else ~named).nonzero()[:, 0])


def rows_of(runs: Sequence[Stretch | None]) -> Int[Tensor, "b n"]:
    """Their positions, behind the last the first position again."""
    most = max((len(run.positions) for run in runs if run is not None), default=1)
    whole = torch.zeros(len(runs), most, dtype=torch.long)
    for row, run in zip(whole, runs, strict=True):
        if run is not None:
            row[: len(run.positions)] = run.positions
    return whole
