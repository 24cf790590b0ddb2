"""Localization heads: chosen without a box, by how much of the image they look at and how compactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from .. import metrics
from ._looks import seen
from ._places import places

PATCHES = 576  # of LLaVA-1.5, for which the threshold of .001 was chosen
COUNTED = 10  # heads of lowest spatial entropy that each prompt counts


class Choice(NamedTuple):
    """heads: (layer, head), the most often counted first; share: of the prompts, for each. largest: heads of the
    largest image sum, as many.
    """

    heads: list[list[int]]
    share: list[float]
    largest: list[list[int]]


def choose(subject: Any, batches: Sequence[Batch], options: Any) -> Choice:
    """`chosen_heads` of all examples of the batches that have a map."""
    maps: list[Tensor] = []
    for batch in batches:
        where = places(batch, options.asked)
        rows = seen(subject, batch, replace(options, gradients=False, occlusion=0))["rows"]
        maps += [place.laid(own) for own, place in zip(rows, where, strict=True) if place is not None]
    return chosen_heads(maps, options.heads) if maps else Choice([], [], [])


def chosen_heads(maps: Sequence[Float[Tensor, "layer h rows columns"]], count: int) -> Choice:
    """The heads that are most often among those of lowest spatial entropy, of those whose image sum, mean over prompts,
    is from the elbow on. Of equals the one of lower entropy, then of larger sum.

    maps: attention of the last position, one of each prompt, NaN in layers without heads. The entropy's threshold is
    .001 at 576 patches, in proportion at another number; a map without a cell above it is not compact. Each prompt
    counts COUNTED heads, at most half of them. Source: arXiv 2503.06287, code; its elbow keeps heads of at least that
    *index*, this one those of at least that sum.
    """
    n_heads = maps[0].shape[1]
    sums = torch.stack([one.flatten(2).sum(-1).flatten() for one in maps]).mean(0)
    there = (~sums.isnan()).nonzero()[:, 0]
    if len(there) > 2:
        there = there[sums[there] >= sums[there][metrics.elbow(sums[there])]]
    entropy = torch.stack([torch.stack([_entropy(one.flatten(0, 1)[head]) for head in there]) for one in maps])
    ranks = entropy.argsort(dim=1, stable=True).argsort(dim=1)
    counted = (ranks < min(COUNTED, max(1, len(there) // 2))).float().mean(0)
    keys = [(-float(counted[i]), float(entropy[:, i].mean()), -float(sums[head])) for i, head in enumerate(there)]
    order = sorted(range(len(there)), key=keys.__getitem__)[:count]
    largest = sums.nan_to_num(-1.0).argsort(descending=True, stable=True)[:count]
    return Choice(
        [list(divmod(int(there[i]), n_heads)) for i in order],
        [float(counted[i]) for i in order],
        [list(divmod(int(head), n_heads)) for head in largest],
    )


def _entropy(values: Float[Tensor, "rows columns"]) -> Float[Tensor, ""]:
    """Infinite where no cell stands out."""
    above = 0.001 * PATCHES / values.numel()
    some = bool((values - values.mean() > above).any())
    return metrics.spatial_entropy(values, above) if some else torch.tensor(torch.inf)
