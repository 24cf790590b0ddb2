"""Localization heads: chosen without a box, by how much of the image they look at and how compactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs.results import stack_layers
from .. import metrics
from ._attention_maps import last_rows
from ._places import Place, places

PATCHES = 576  # of LLaVA-1.5, for which the threshold of .001 was chosen
COUNTED = 10  # heads of lowest spatial entropy that each prompt counts


class Choice(NamedTuple):
    """heads: (layer, head), the most often counted first; share: of the prompts, for each. largest: heads of the
    largest image sum, as many.
    """

    heads: list[list[int]]
    share: list[float]
    largest: list[list[int]]


def choose(subject: Any, batches: Sequence[Batch], name: str, count: int) -> Choice:
    """`chosen_heads` of all examples of the batches that have a map."""
    maps: list[Tensor] = []
    for batch in batches:
        where, kept = places(batch, name), []
        with tracing(subject, lambda layer, batch=batch, where=where, kept=kept: kept.append(
            {"rows": last_rows(layer, batch, where)}
        )):  # fmt: skip
            subject.forward(batch)
        rows = stack_layers(kept)["rows"]
        maps += [place.laid(rows[i]) for i, place in enumerate(where) if isinstance(place, Place)]
    return chosen_heads(maps, count) if maps else Choice([], [], [])


def chosen_heads(maps: Sequence[Float[Tensor, "layer h rows columns"]], count: int) -> Choice:
    """The heads that are most often among the COUNTED of lowest spatial entropy, of those whose image sum, mean over
    prompts, is from the elbow on; of equals the one of larger sum.

    maps: attention of the last position, one of each prompt, NaN in layers without heads. The entropy's threshold is
    .001 at 576 patches, in proportion at another number. Source: arXiv 2503.06287, code; its elbow keeps heads of at
    least that *index*, this one those of at least that sum.
    """
    sums = torch.stack([one.flatten(2).sum(-1).flatten() for one in maps]).mean(0).nan_to_num(-1.0)
    there = (sums >= 0).nonzero()[:, 0]
    candidates = there[sums[there] >= sums[there][metrics.elbow(sums[there])]].tolist() if len(there) > 2 else there.tolist()
    counted: Counter[int] = Counter()
    for one in maps:
        flat = one.flatten(0, 1)
        above = 0.001 * PATCHES / flat[0].numel()
        entropy = {head: float(metrics.spatial_entropy(flat[head], above)) for head in candidates}
        counted.update(sorted(candidates, key=lambda head: (entropy[head], -float(sums[head])))[:COUNTED])
    order = sorted(candidates, key=lambda head: (-counted[head], -float(sums[head])))[:count]
    n_heads = maps[0].shape[1]
    largest = sums.argsort(descending=True, stable=True)[:count].tolist()
    return Choice(
        [list(divmod(head, n_heads)) for head in order],
        [counted[head] / len(maps) for head in order],
        [list(divmod(head, n_heads)) for head in largest],
    )
