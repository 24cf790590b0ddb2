"""What the loss of each text becomes without the neurons of each label, or of their twins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.intervene.interventions import Apply, Clamp, Variant
from ...probes.intervene.recording import record
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ..common.controls import NEURONS
from ..common.losses import Losses, of_forward, rows_before, scored
from ._counts import BEFORE, IMAGE, PREFIXES, TEXT
from ._units import of_part

SITE = "mlp_post"
ZERO, MEAN = "set to 0", "set to their mean"
HOW = (ZERO, MEAN, NEURONS)
Neurons = Sequence[Sequence[int]]


def removed(subject: Any, batch: Batch, learned: Any, positions: int) -> dict[str, Float[Tensor, "b ..."]]:
    """ "clean" [b]: the loss of a token, nats; "removed", "image removed", "tower removed", "projector removed" [b,
    label, HOW]: how much more it is without neurons that are specific at words, at image tokens, in the tower, in the
    projector (of these two none are set to means); NaN without neurons.
    """
    base, asked = record(subject, batch), scored(batch, positions)
    losses = Losses(base, asked, rows_before(asked, base))
    parts = [part for part in (TEXT, IMAGE) if part == TEXT or part in learned.beside]
    plans = [(part, *one) for part in parts for one in _plan(of_part(learned, part))]
    values = losses.read([{}, *(variant for *_, variant in plans)])[0][..., 0]
    changes = [(*place, value - values[0]) for (*place, _), value in zip(plans, values[1:], strict=True)]
    shown = batch.where("image").any(1)
    for part in (part for part in BEFORE if part in learned.beside and bool(shown.any())):
        parts.append(part)
        for label, how, own in _zeroed(of_part(learned, part)):
            more = _without_before(losses, batch, BEFORE[part], own) - values[0]
            changes.append((part, label, how, more.masked_fill(~shown, torch.nan)))
    rows = {f"{PREFIXES[part]}removed": _means(changes, part, len(batch.examples), learned) for part in parts}
    return {"clean": values[0]} | rows


def _zeroed(learned: Any) -> list[tuple[int, int, Neurons]]:
    """(label, place in HOW, neurons that are set to 0), where there are any."""
    plan = [(i, 0, own) for i, own in enumerate(learned.specific)]
    plan += [(i, 2, own) for draw in learned.random for i, own in enumerate(draw)]
    return [one for one in plan if len(one[2])]


def _plan(learned: Any) -> list[tuple[int, int, Variant]]:
    """(label, place in HOW, what is done to its neurons)."""
    with_means = enumerate(zip(learned.specific, learned.means, strict=False))
    means = [(i, 1, _mean(own, values)) for i, (own, values) in with_means if len(own)]
    return [*((i, how, _zero(own)) for i, how, own in _zeroed(learned)), *means]


def _means(changes: Sequence[Any], part: str, count: int, learned: Any) -> Float[Tensor, "b label how"]:
    """Mean over draws of what a part's neurons change, NaN where none were removed."""
    sums, counts = torch.zeros(2, count, len(learned.labels), len(HOW))
    for _, label, how, value in (one for one in changes if one[0] == part):
        sums[:, label, how] += value
        counts[:, label, how] += 1
    return sums / counts.masked_fill(counts == 0, torch.nan)


def _without_before(losses: Losses, batch: Batch, stack: str, neurons: Neurons) -> Float[Tensor, "b"]:
    """The loss with neurons of tower or projector at 0: a whole forward, since replaying begins behind them."""
    zero = {(layer, SITE): _setter(own, torch.zeros(len(own))) for layer, own in _by_layer(neurons).items()}
    with tracing(losses.base.subject, rewrites=zero, stack=stack):
        return of_forward(losses.base.subject, batch, losses.asked)[:, 0]


def _by_layer(neurons: Neurons) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for layer, neuron in neurons:
        found.setdefault(layer, []).append(neuron)
    return dict(sorted(found.items()))


def _zero(neurons: Neurons) -> Variant:
    return {layer: (Clamp(SITE, None, 0.0, 0.0, tuple(own)),) for layer, own in _by_layer(neurons).items()}


def _mean(neurons: Neurons, means: Sequence[float]) -> Variant:
    """means: of each neuron over the tokens of all labels."""
    known = {(layer, neuron): mean for (layer, neuron), mean in zip(neurons, means, strict=True)}
    return {
        layer: (Apply(SITE, None, _setter(own, torch.tensor([known[layer, neuron] for neuron in own]))),)
        for layer, own in _by_layer(neurons).items()
    }


def _setter(own: Sequence[int], values: Float[Tensor, "own"]) -> Any:
    def put(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[..., list(own)] = values.to(changed)
        return changed

    return put
