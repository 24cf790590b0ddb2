"""Which experts held-out texts of a label go to more than those of the others, and their twins of like load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.errors import UserError
from ...data.example import Example
from ...probes.prompts.batch import Batch
from ..common.labels import label_of
from ..common.stats import quotient
from ._expert_rows import routed_rows

Array = NDArray[Any]
Chosen = list[tuple[int, int]]  # (layer, expert)
MOST = 8  # labels
ALIKE = 3  # a twin is drawn from so many experts of the layer, those nearest in load


def labels_in(examples: Sequence[Example], by: str) -> list[str]:
    """All labels, in the order of their names; none where all examples have one and the same. UserError: too many."""
    found = sorted({label_of(example, by) for example in examples} - {""})
    if len(found) > MOST:
        said = f"meta {by}" if by else "meta label or kind of the examples"
        raise UserError(
            f"experts compares up to {MOST} labels ({said}), and held-out examples have {len(found)}: "
            f"{', '.join(found[:MOST])} …; another column may have fewer: --experts.by COLUMN"
        )
    return found if len(found) > 1 else []


def loads(subject: Any, batches: Sequence[Batch], labels: Sequence[str], by: str) -> Array:
    """[label, layer, expert]: the share of a label's tokens for which an expert is chosen; NaN without a router."""
    sums, tokens = 0.0, np.zeros(len(labels))
    for batch in batches:
        rows, _ = routed_rows(subject, batch)
        member = np.array([[label_of(e, by) == label for e in batch.examples] for label in labels], float)
        sums = sums + np.tensordot(member, rows["chosen"].double().numpy(), 1)
        tokens += member @ rows["tokens"].double().numpy()
    return quotient(sums, tokens[:, None, None])


def specific(load: Array, count: int) -> list[Chosen]:
    """For each label at most so many experts of all layers: those whose load is above the mean load of the other
    labels, the largest difference first.
    """
    found: list[Chosen] = []
    for i in range(len(load)):
        more = np.nan_to_num(load[i] - np.delete(load, i, 0).mean(0))
        order = np.argsort(-more, axis=None, kind="stable")[:count]
        places = zip(*np.unravel_index(order, more.shape), strict=True)
        found.append([(int(a), int(b)) for a, b in places if more[a, b] > 0])
    return found


def twins(load: Array, chosen: Sequence[Chosen], draw: int) -> list[Chosen]:
    """For each label as many random experts of the same layers, chosen for no label, each one of the ALIKE nearest in
    load on the label's own tokens; fewer where a layer has not as many.
    """
    rng, found = np.random.default_rng(draw), list[Chosen]()
    taken = {expert for own in chosen for expert in own}
    for label, own in enumerate(chosen):
        mine: Chosen = []
        for layer, expert in own:
            free = [e for e in range(load.shape[2]) if (layer, e) not in taken and (layer, e) not in mine]
            free.sort(key=lambda e: abs(load[label, layer, e] - load[label, layer, expert]))
            if free:
                mine.append((layer, int(rng.choice(free[:ALIKE]))))
        found.append(sorted(mine))
    return found
