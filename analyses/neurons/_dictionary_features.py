"""Features of one label, their twins that are of none, neurons alike; and the directions that steer to a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from ..common.controls import DIRECTION, FEATURES, example_keys, random_directions
from ..common.labels import label_of
from ..common.losses import scored
from ._counts import MOST
from ._dictionary_learning import Seen
from ._specific import twins
from ._words import WORDS

OWN, MEANS = "features of the label", "difference of mean states"
STEERED = (OWN, FEATURES, DIRECTION, MEANS)
STRENGTHS = (1, 2, 4)
AT_ONCE = 4096  # states that are encoded together
FREQUENT = 30  # words of a label
READ_AT = 64  # largest places of a feature that its words are taken from


class Told(NamedTuple):
    """Of every feature: rate [feature, label], the share of a label's tokens at which it is active; typical [feature],
    its mean where it is active; largest [feature, READ_AT], where it is largest, by token, −1 where it is not active.
    """

    rate: Float[Tensor, "feature label"]
    typical: Float[Tensor, " feature"]
    largest: Tensor

    @property
    def silent(self) -> int:
        """How many are active at none of the tokens."""
        return int((self.typical == 0).sum())


def labels_of(batches: Sequence[Batch]) -> list[str]:
    """The labels of the examples; none where there are fewer than two or more than MOST."""
    found = sorted({label_of(example) for batch in batches for example in batch.examples} - {""})
    return found if 2 <= len(found) <= MOST else []


@torch.no_grad()
def tell(dictionary: Any, seen: Seen, labels: int) -> Told:
    """What the held-out texts tell of a dictionary's features."""
    count = dictionary.encode(seen.states[:1]).shape[-1]
    rate, total, on = torch.zeros(count, labels), torch.zeros(count), torch.zeros(count)
    best, at = torch.zeros(0, count), torch.zeros(0, count, dtype=torch.long)
    for start in range(0, len(seen.states), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        values, own = dictionary.encode(seen.states[part]), seen.label[part]
        fires = (values > 0).float()
        total, on = total + values.sum(0), on + fires.sum(0)
        rate.index_add_(1, own[own >= 0], fires[own >= 0].T)
        both = torch.cat([best, values])
        best, place = both.topk(min(READ_AT, len(both)), 0)
        at = torch.cat([at, torch.arange(start, start + len(values))[:, None].expand(-1, count)]).gather(0, place)
    ids = torch.where(best > 0, seen.ids[at], -1).T
    return Told(rate / seen.tokens(labels)[:, 0], total / on.clamp_min(1), ids)


def of_labels(rate: Float[Tensor, "unit label"], top: int) -> list[list[int]]:
    """For each label the units that are active on so many more of its tokens than of the others', the most so first;
    none of them more active for another label.
    """
    others = (rate.sum(1, keepdim=True) - rate) / max(1, rate.shape[1] - 1)
    apart = (rate - others).masked_fill(rate < rate.amax(1, keepdim=True), -torch.inf)
    found = []
    for column in apart.T:
        order = column.topk(min(top, len(column)))
        found.append([int(unit) for unit, more in zip(order.indices, order.values, strict=True) if more > 0])
    return found


def of_like_activity(rate: Float[Tensor, "unit label"], chosen: Sequence[Sequence[int]]) -> list[list[int]]:
    """See `_specific.twins`."""
    own = [[(0, unit) for unit in units] for units in chosen]
    return [[unit for _, unit in units] for units in twins(rate[None], own, 0)]


def directions(
    W_dec: Float[Tensor, "feature d"], told: Told, features: Any, like: Any, seen: Seen
) -> Float[Tensor, "way label d"]:
    """For each of STEERED and each label what is added at strength 1: its features at their typical activation; all
    others as long.
    """
    count = len(features)
    own = _sums(W_dec, told, features)
    length = own.norm(dim=-1, keepdim=True)
    means = torch.stack([seen.states[seen.label == i].mean(0) for i in range(count)])
    apart = means - (means.sum(0) - means) / max(1, count - 1)
    random = random_directions(own, example_keys([f"label {i}" for i in range(count)], 0))
    others = (_sums(W_dec, told, like), random, apart)
    return torch.stack([own, *(one * length / one.norm(dim=-1, keepdim=True).clamp_min(1e-12) for one in others)])


def _sums(W_dec: Tensor, told: Told, features: Sequence[Sequence[int]]) -> Float[Tensor, "label d"]:
    rows = [(told.typical[own, None] * W_dec[own]).sum(0) if own else torch.zeros(W_dec.shape[1]) for own in features]
    return torch.stack(rows)


def frequent(batches: Sequence[Batch], labels: Sequence[str], positions: int, vocabulary: int) -> list[list[int]]:
    """For each label the tokens that follow in its texts (or that answer) and hardly in those of the others."""
    counts = torch.zeros(len(labels), vocabulary)
    for batch in batches:
        for example, targets in zip(batch.examples, scored(batch, positions).targets, strict=True):
            if label_of(example) in labels:
                own = targets[targets >= 0]
                counts[labels.index(label_of(example))].index_add_(0, own, torch.ones(len(own)))
    return of_labels((counts / counts.sum(1, keepdim=True).clamp_min(1)).T, FREQUENT)


def reads(told: Told, features: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """The tokens at which features are largest, each once."""
    return [[_once(told.largest[feature].tolist()) for feature in own] for own in features]


def _once(ids: Sequence[int]) -> list[int]:
    return [*dict.fromkeys(token for token in ids if token >= 0)][:WORDS]


@torch.no_grad()
def writes(subject: Any, W_dec: Float[Tensor, "feature d"], features: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """The tokens whose logits a feature raises most, by W_U · direction alone; none where the site is no residual."""
    unembedding = subject.W_U.float().cpu()
    if W_dec.shape[1] != unembedding.shape[1]:
        return [[[] for _ in own] for own in features]
    return [(W_dec[own] @ unembedding.T).topk(WORDS).indices.tolist() if own else [] for own in features]
