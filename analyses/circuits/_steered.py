"""Heads that are made to attend to chosen positions, at the last position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.interventions import Patch, Variant
from ...probes.intervene.measures import Measure
from ...probes.intervene.recording import Recording
from ...probes.intervene.sweep import Inputs, Sweep, recorded, variant_sweep
from ...probes.observe.gates import require_no_gate
from ..common.controls import Head


@torch.no_grad()
def steer_attention(
    subject: Any, inputs: Inputs, heads: Sequence[Head], targets: Bool[Tensor, "b p"], *, measure: Measure
) -> Sweep:
    """The measure [1, b] when `heads` attend, at the last position, to nothing but `targets`, evenly; clean [b].

    inputs: a batch, model inputs, or a recording with z. Exact, and proved to take effect; also where a target lies
    behind a sliding window, which the head alone would not see. UserError: a head that does
    not exist, an example without a target, a target that is the last position or padding.
    """
    base = recorded(subject, inputs, ("z",))
    last = base.final
    return variant_sweep(base, [steered(base, heads, targets)], last, measure=measure)


def steered(base: Recording, heads: Sequence[Head], targets: Bool[Tensor, "b p"]) -> Variant:
    """The same as a variant of a recorded run: what the heads would say is the mean of the targets' values.

    Values before the last position are those of the clean run, since nothing else is changed; so this is exact.
    """
    subject = base.subject
    require_no_gate(subject, "steering")
    last, targets = base.final, targets.to(base.mask.device)
    bare = (~targets.any(1)).nonzero()[:, 0].tolist()
    if bare:
        raise UserError(f"steering: example {bare[0]} of the batch has no target to attend to")
    if bool((targets & (last | ~base.mask)).any()):
        raise UserError("steering: a target is padding or the last position itself")
    weights = targets.float() / targets.sum(1, keepdim=True)
    variant: dict[int, list[Patch]] = {}
    for layer, head in sorted(set(heads)):
        if not (0 <= layer < subject.n_layers and 0 <= head < subject.n_heads):
            raise UserError(f"steering: no head {layer}.{head} in {subject.n_layers} × {subject.n_heads} heads")
        kept = base.layers[layer]
        value = kept.value[:, head * kept.value.shape[1] // subject.n_heads]
        said = torch.einsum("bp,bpe->be", weights.to(value), value)
        z = said[:, None, None].expand(-1, 1, subject.n_heads, -1)
        variant.setdefault(layer, []).append(Patch("z", last, z, (head,)))
    return variant
