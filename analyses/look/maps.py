"""From what was seen to maps over the image: one number for each answer token, level and image token."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...data.tokens import labels
from ...probes.model.head import in_rows, word_directions
from ...probes.prompts.batch import Batch
from .. import metrics
from .observing import Seen, numbered

BUDGET, OF_HEADS = 3_000_000, 1_000_000  # numbers of all maps by layer, and by head, a byte each on the page
EPS = 0.1  # of the general prompt's mean: below, a ratio to it says nothing
WORDS = 2  # of the lens, for every image token


class Maps(NamedTuple):
    """One way of asking where the model looks. levels: names of the layers or bands, "" where there is but one.

    values: prompt -> [t, level, c]; of a prompt that is missing nothing is compared.
    """

    key: str
    levels: list[str]
    values: Mapping[str, np.ndarray]


class Words(NamedTuple):
    """The likeliest words of every image token at some states: [state, c, rank]."""

    states: list[int]
    words: list[list[list[str]]]
    probability: np.ndarray


def by_layer(seen: Seen) -> list[Maps]:
    """Attention, attention by what it carries, and attention relative to the general question."""
    _, tokens, layers, cells = seen.attention.shape
    sets = 3 + 2 + (3 if seen.carried is not None else 0)
    width = max(1, -(-sets * tokens * layers * cells // BUDGET))
    names, banded = _bands(seen.layers, width), partial(_mean_of_bands, width=width)
    attention = banded(seen.attention)
    found = [Maps("attention", names, _by_prompt(attention))]
    asked, general, blank = attention
    found.append(Maps("relative", names, {"asked": _relative(asked, general), "blank": _relative(blank, general)}))
    if seen.carried is not None:
        found.append(Maps("carried", names, _by_prompt(banded(seen.carried))))
    return found


def _by_prompt(values: Float[Tensor, "r t l c"]) -> dict[str, np.ndarray]:
    return dict(zip(("asked", "general", "blank"), values.numpy(), strict=True))


def _bands(layers: list[int], width: int) -> list[str]:
    parts = [layers[i : i + width] for i in range(0, len(layers), width)]
    return [f"layer {part[0]}" if len(part) == 1 else f"layers {part[0]}–{part[-1]}" for part in parts]


def _mean_of_bands(values: Float[Tensor, "r t l c"], width: int) -> Float[Tensor, "r t bands c"]:
    return torch.stack([part.mean(2) for part in values.split(width, 2)], 2)


def _relative(looked: Tensor, general: Tensor) -> np.ndarray:
    """Attention over that of the general question, both in units of the latter's mean over the image tokens."""
    mean = general.mean(-1, keepdim=True).clamp_min(1e-12)
    return metrics.relative_attention(looked / mean, general / mean, EPS).numpy()


@torch.no_grad()
def token_maps(subject: Any, batch: Batch, seen: Seen) -> Maps:
    """TAM of every answer token, from the last states of the asked and of the blank prompt."""
    rows = {name: _token_maps(subject, batch, seen, at) for at, name in ((0, "asked"), (2, "blank"))}
    return Maps("tam", [""], rows)


def _token_maps(subject: Any, batch: Batch, seen: Seen, row: int) -> np.ndarray:
    """[t, 1, c]. Context: the text before the token, special tokens left out; filtered picture by picture."""
    device = subject.device
    states = subject.norm(seen.final[row // 2].to(device)).float()
    ids = batch.inputs["input_ids"][row].to(device)
    text = batch.mask[row] & ~batch.where("image")[row] & ~batch.where("image_separator")[row]
    text = (text & ~batch.where("special")[row]).to(device)
    image, maps = states[seen.cells[row].to(device)], []
    for place in seen.places[row].tolist():
        before = text.nonzero()[:, 0]
        before = before[before <= place]
        known, where = torch.cat([ids[before], ids[place + 1 : place + 2]]).unique(return_inverse=True)
        directions = word_directions(subject.model, known).to(device)
        found = metrics.token_activation_map(image, states[before], where[:-1], int(where[-1]), directions)
        maps.append(_filtered(found.cleaned.cpu(), batch, seen, row))
    return torch.stack(maps)[:, None].numpy()


def _filtered(values: Float[Tensor, "c"], batch: Batch, seen: Seen, row: int) -> Tensor:
    """TAM's rank filter on each picture that has a map of two rows and columns at least."""
    values = values.clone()
    for index in numbered(batch, seen.cells, row):
        if min(index.shape) >= 2:
            values[index] = metrics.rank_filter(values[index]).to(values.dtype)
    return values


@torch.no_grad()
def lens_words(subject: Any, seen: Seen) -> Words:
    """What the logit lens reads from every image token of the asked prompt, at a few states and the last."""
    last = seen.final[0][seen.cells[0].to(seen.final.device)]
    states = {**seen.states, subject.n_layers: last}
    read = [in_rows(partial(_likeliest, subject), subject.model, x.to(subject.device)) for x in states.values()]
    words = [[labels(subject.tokenizer, cell) for cell in one["ids"].tolist()] for one in read]
    return Words(list(states), words, torch.stack([one["p"].cpu() for one in read]).numpy())


def _likeliest(subject: Any, states: Tensor) -> dict[str, Tensor]:
    said = metrics.logit_lens(states, subject.norm, subject.unembed).float().softmax(-1).topk(WORDS, -1)
    return {"ids": said.indices, "p": said.values}
