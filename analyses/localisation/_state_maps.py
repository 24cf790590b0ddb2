"""Maps of states: what image tokens say of the answer's word, and how far they are from the mean image token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.tokens import ids_in_text
from ...probes.model.head import in_rows, vocabulary, word_directions
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import random_words
from ._places import Place

LENS, TAM, RAW = "image-token lens", "TAM", "TAM before its removal"
MAGNITUDE, PHASE = "token activation", "token activation, phase"
OF_WORDS = (LENS, TAM, RAW)  # maps of a word, which other words have as well
SPOKEN = ("text", "question", "instruction", "system")  # roles of the tokens whose own maps TAM takes away


class Words(NamedTuple):
    """ids: the answer's token, then random words. context: positions of the prompt's words, and their ids."""

    ids: list[int]
    context: Int[Tensor, " n"]
    context_ids: Int[Tensor, " n"]


@lru_cache(maxsize=4)  # every layer asks for the same
def all_words(subject: Any, batch: Batch) -> list[Words | None]:
    """`words_of` every example of a batch."""
    return [words_of(subject, batch, row) for row in range(len(batch.examples))]


def words_of(subject: Any, batch: Batch, row: int) -> Words | None:
    """What maps of words need of an example; None where no answer is asked."""
    example = batch.examples[row]
    if not example.answer:
        return None
    target = batch.first_token_of(example, example.answer)
    taken = {target} | {i for word in example.wrong for i in ids_in_text(batch.tokenizer, word)}
    random = random_words(batch.tokenizer, (target,), frozenset(taken), vocabulary(subject.model))
    spoken = torch.stack([batch.where(role)[row] for role in SPOKEN]).any(0).nonzero()[:, 0]
    return Words([target, *(word[0] for word in random)], spoken, batch.inputs["input_ids"][row].cpu()[spoken])


def state_maps(
    subject: Any, states: Float[Tensor, "b p d"], where: Sequence[Place | None], words: Sequence[Words | None]
) -> dict[str, Float[Tensor, "b words cells"]]:
    """By method the maps of one state of each example, NaN without a map or a word; token activation has one map,
    the others one of the answer's word and of each random one.
    """
    made = [
        {} if place is None else _of_example(subject, states[row], place, words[row]) for row, place in enumerate(where)
    ]
    most = max((len(place.positions) for place in where if place is not None), default=0)
    counts = {MAGNITUDE: 1, PHASE: 1} | dict.fromkeys(OF_WORDS, max((len(w.ids) for w in words if w), default=1))
    whole = {
        name: states.new_full((len(states), count, most), torch.nan, dtype=torch.float32)
        for name, count in counts.items()
    }
    for row, maps in enumerate(made):
        for name, values in maps.items():
            whole[name][row, : len(values), : values.shape[-1]] = values
    return whole


def _of_example(subject: Any, state: Float[Tensor, "p d"], place: Place, words: Words | None) -> dict[str, Tensor]:
    image = state[place.positions.to(state.device)]
    maps = {MAGNITUDE: metrics.token_magnitude(image)[None], PHASE: metrics.token_phase(image)[None]}
    if words is None:
        return maps
    normed, context = subject.norm(image), subject.norm(state[words.context.to(state.device)])
    ids = torch.tensor(words.ids, device=state.device)

    def probabilities(some: Tensor) -> Tensor:
        return subject.unembed(some).float().softmax(-1)[:, ids]

    maps[LENS] = in_rows(probabilities, subject.model, normed).T
    # Few rows of W_U instead of all: ids are counted among these.
    known, places = torch.cat([ids.cpu(), words.context_ids]).unique(return_inverse=True)
    rows = word_directions(subject.model, known).to(state.device)
    targets, spoken = places[: len(ids)].tolist(), places[len(ids) :].to(state.device)
    found = [metrics.token_activation_map(normed.float(), context.float(), spoken, one, rows) for one in targets]
    maps[RAW] = torch.stack([_filtered(one.raw, place) for one in found])
    maps[TAM] = torch.stack([_filtered(one.cleaned, place) for one in found])
    return maps


def _filtered(values: Float[Tensor, "cells"], place: Place) -> Float[Tensor, "cells"]:
    """TAM's rank filter, where the map is wide enough for it."""
    laid = place.laid(values)
    return metrics.rank_filter(laid).flatten() if min(laid.shape) >= 2 else values
