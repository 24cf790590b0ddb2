"""What the loss of each text becomes without the neurons of each label, or of their twins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.intervene.interventions import Apply, Clamp, Variant
from ...probes.intervene.recording import record
from ...probes.prompts.batch import Batch
from ..common.controls import NEURONS
from ..common.losses import Losses, rows_before, scored

SITE = "mlp_post"
ZERO, MEAN = "set to 0", "set to their mean"
HOW = (ZERO, MEAN, NEURONS)


def removed(subject: Any, batch: Batch, learned: Any, positions: int) -> dict[str, Float[Tensor, "b ..."]]:
    """ "clean" [b]: the loss of a token, nats; "removed" [b, label, HOW]: how much more it is; NaN without neurons."""
    base, asked = record(subject, batch), scored(batch, positions)
    with_means = enumerate(zip(learned.specific, learned.means, strict=True))
    plan = [
        *((i, 0, _zero(own)) for i, own in enumerate(learned.specific)),
        *((i, 1, _mean(own, means)) for i, (own, means) in with_means),
        *((i, 2, _zero(own)) for draw in learned.random for i, own in enumerate(draw)),
    ]
    plan = [part for part in plan if part[2]]
    losses = Losses(base, asked, rows_before(asked, base))
    values = losses.read([{}, *(variant for _, _, variant in plan)])[0][..., 0]
    sums, counts = torch.zeros(2, len(batch.examples), len(learned.labels), len(HOW))
    for (label, how, _), value in zip(plan, values[1:], strict=True):
        sums[:, label, how] += value - values[0]
        counts[:, label, how] += 1
    return {"clean": values[0], "removed": sums / counts.masked_fill(counts == 0, torch.nan)}


def _by_layer(neurons: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for layer, neuron in neurons:
        found.setdefault(layer, []).append(neuron)
    return dict(sorted(found.items()))


def _zero(neurons: Sequence[Sequence[int]]) -> Variant:
    return {layer: (Clamp(SITE, None, 0.0, 0.0, tuple(own)),) for layer, own in _by_layer(neurons).items()}


def _mean(neurons: Sequence[Sequence[int]], means: Sequence[float]) -> Variant:
    """means: of each neuron over the tokens of all labels."""
    known = {(layer, neuron): mean for (layer, neuron), mean in zip(neurons, means, strict=True)}
    return {layer: (Apply(SITE, None, _setter(layer, own, known)),) for layer, own in _by_layer(neurons).items()}


def _setter(layer: int, own: list[int], known: dict[tuple[int, int], float]) -> Any:
    values = torch.tensor([known[layer, neuron] for neuron in own])

    def put(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[..., own] = values.to(changed)
        return changed

    return put
