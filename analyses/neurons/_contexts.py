"""Where single neurons are largest in running text: contexts, n-grams, and how far their activations spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._words import Neuron, Text

CONTEXTS, BEFORE, BEHIND = 5, 8, 3  # of each neuron; tokens before and behind the peak
NGRAMS, LONGEST = 6, 3  # of each neuron; tokens of one
TRIED = 64  # texts and n-grams, of which those that say the same are left out


class Card(NamedTuple):
    """What a card shows of one neuron, as plain values. side: see `_words.sides`; the numbers here are turned to it.

    spread: σ of its activation over the texts' unique n-grams of 1 to 3 tokens. contexts: [activation, tokens before
    the peak, *ids]. ngrams: [mean activation at its last token, occurrences, *ids]. The largest first.
    """

    side: float = 1.0
    spread: float = float("nan")
    contexts: Sequence[Sequence[float]] = ()
    ngrams: Sequence[Sequence[float]] = ()


class Ngrams(NamedTuple):
    """Unique n-grams, −1 before the shorter ones; how often each occurs; each neuron's mean at its last token."""

    ids: Int[Tensor, "u 3"]
    count: Int[Tensor, "u"]
    means: Float[Tensor, "u n"]


def cards(texts: Sequence[Text], neurons: Sequence[Neuron], side: Float[Tensor, "n"]) -> dict[Neuron, Card]:
    """One for each neuron, of texts that are turned to its side."""
    if not neurons:
        return {}
    found = ngrams(texts)
    spread = found.means.double().std(0, correction=0).tolist()
    parts = zip(side.tolist(), spread, contexts(texts), top_ngrams(found), strict=True)
    return dict(zip(neurons, map(Card._make, parts), strict=True))


def contexts(texts: Sequence[Text]) -> list[list[list[float]]]:
    """For each neuron the texts in which it is largest, one place in each and no passage twice; none where it is never
    above 0.
    """
    peaks = [text.acts.nan_to_num(nan=-torch.inf).max(0) for text in texts if len(text.ids)]
    known = [text for text in texts if len(text.ids)]
    values, places = (torch.stack([peak[part] for peak in peaks]) for part in (0, 1))
    best = values.topk(min(TRIED, len(known)), 0)
    found = []
    for i, (tops, at) in enumerate(zip(best.values.T.tolist(), best.indices.T.tolist(), strict=True)):
        told = [(value, known[text], int(places[text, i])) for value, text in zip(tops, at, strict=True) if value > 0]
        unique: dict[tuple[float, ...], list[float]] = {}
        for one in told:
            passage = _around(*one)
            unique.setdefault(tuple(passage[2:]), passage)
        found.append([*unique.values()][:CONTEXTS])
    return found


def _around(value: float, text: Text, peak: int) -> list[float]:
    start = max(0, peak - BEFORE)
    return [value, peak - start, *text.ids[start : peak + BEHIND + 1].tolist()]


def ngrams(texts: Sequence[Text]) -> Ngrams:
    """All n-grams of 1 to LONGEST tokens in a row, none across an image."""
    parts = [_of_size(texts, size) for size in range(1, LONGEST + 1)]
    return Ngrams(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _of_size(texts: Sequence[Text], size: int) -> Ngrams:
    windows, acts = [], []
    for ids, places, values in texts:
        if len(ids) < size:
            continue
        ends = values[size - 1 :]
        in_a_row = places[size - 1 :] - places[: len(places) - size + 1] == size - 1
        kept = in_a_row & ~ends.isnan().any(1)
        windows.append(ids.unfold(0, size, 1)[kept])
        acts.append(ends[kept])
    width = texts[0].acts.shape[1]
    unique, place, count = torch.cat([torch.zeros(0, size, dtype=torch.long), *windows]).unique(
        dim=0, return_inverse=True, return_counts=True
    )
    sums = torch.zeros(len(unique), width).index_add_(0, place, torch.cat([torch.zeros(0, width), *acts]))
    filled = torch.full((len(unique), LONGEST), -1)
    filled[:, LONGEST - size :] = unique
    return Ngrams(filled, count, sums / count[:, None])


def top_ngrams(found: Ngrams) -> list[list[list[float]]]:
    """For each neuron the n-grams of largest mean: those that occur twice where there are any, and of those that end
    on one token the best.
    """
    twice = (found.count >= 2)[:, None] & (found.means > 0)
    allowed = twice | (~twice.any(0) & (found.means > 0))
    values = found.means.masked_fill(~allowed, -torch.inf)
    best = values.topk(min(TRIED, len(values)), 0)
    return [_distinct(found, *column) for column in zip(best.values.T.tolist(), best.indices.T.tolist(), strict=True)]


def _distinct(found: Ngrams, values: list[float], rows: list[int]) -> list[list[float]]:
    chosen: dict[int, list[float]] = {}
    for value, row in zip(values, rows, strict=True):
        if value > 0:
            ids = [token for token in found.ids[row].tolist() if token >= 0]
            chosen.setdefault(ids[-1], [value, int(found.count[row]), *ids])
    return [*chosen.values()][:NGRAMS]
