"""What an image token shows, where that is known: the words of the thing that its patch lies on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.tasks.scenes import other_scene, things_of
from ...probes.prompts.batch import Batch
from ...probes.runs.activations import take
from ..common.boxes_on_maps import lies


class Truth(NamedTuple):
    """A thing. where: its image tokens, in the order of `take`. words: those that name it, and those that name a thing
    of another picture, none where no other one is known.
    """

    where: Bool[Tensor, " tokens"]
    words: frozenset[str]
    others: frozenset[str]


def truths(batch: Batch, known: Collection[str], asked: str) -> list[list[Truth]]:
    """Of every example the things with a token of their own and a word among the known ones.

    Of `scenes` every thing, by its colour and its shape; of other tasks what `asked` marks, by the answer.
    """
    found = []
    for row, example in enumerate(batch.examples):
        told = _of_scene(batch, row, example) or _of_answer(batch, row, asked)
        found.append([one for one in (_among(truth, known) for truth in told) if bool(one.where.any()) and one.words])
    return found


def _among(truth: Truth, known: Collection[str]) -> Truth:
    return truth._replace(words=truth.words & set(known), others=truth.others & set(known))


def _of_scene(batch: Batch, row: int, example: Any) -> list[Truth]:
    things, pictures = things_of(example), batch.geometry[row].pictures
    if not things or len(pictures) != 1:
        return []
    within, _ = lies(pictures[0], [*things])
    others = other_scene(example.group).things
    found = []
    for i, (thing, cells) in enumerate(zip(things.values(), within, strict=True)):
        mask = torch.zeros(batch.roles.shape[1], dtype=torch.bool)
        mask[pictures[0].map.flatten()[cells] + int(batch.start[row])] = True
        other = others[i % len(others)]
        words = frozenset({thing.colour, thing.shape}), frozenset({other.colour, other.shape})
        found.append(Truth(_tokens(batch, row, mask), *words))
    return found


def _of_answer(batch: Batch, row: int, asked: str) -> list[Truth]:
    answer = batch.examples[row].answer
    if asked not in batch.marks or not answer:
        return []
    own = frozenset({answer.strip().lower()})
    return [Truth(_tokens(batch, row, batch.marks[asked][row]), own, frozenset())]


def _tokens(batch: Batch, row: int, mask: Bool[Tensor, " p"]) -> Bool[Tensor, " tokens"]:
    """A mask of the prompt's positions, of its image tokens alone."""
    whole = torch.zeros(batch.roles.shape)
    whole[row] = mask.float()
    return take(whole, batch, "patches")[row] == 1
