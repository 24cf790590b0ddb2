"""Attribution of what each writer says, coordinate by coordinate: "neurons" in the sense of the MIB circuit track."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..model import anatomy
from .attribution import frozen_weights, path_shares, recorded_pair
from .edge_attribution import SITES, require_edges
from .edge_graph import every_reader, every_writer
from .edge_slopes import ByLayer, Slopes
from .edge_sums import asked_rows, heard_by, slopes_between, written_by_layer
from .measures import Measure
from .recording import Recording
from .sweep import Inputs

if TYPE_CHECKING:
    from ..model.subject import Subject


def unit_attribution(
    subject: Subject,
    base: Inputs,
    donor: Inputs,
    *,
    measure: Measure,
    steps: int = 1,
    shares: Sequence[float] | None = None,
) -> Float[Tensor, "unit writer"]:
    """The estimated effect of every coordinate of what a writer says being the donor's, summed over examples.

    (donor's − base's writing) ⊙ the gradient at what the writer adds to the residual stream, which is that of all its
    readers together; summed over a writer's coordinates it is the sum of its edges in `edge_attribution`. Writers as in
    `every_writer`; steps, shares and errors as there. Source: hannamw/EAP-IG, `attribute_node(neuron=True)`.
    """
    require_edges(subject, "attribution of neurons")
    clean, other = recorded_pair(subject, base, donor, SITES)
    total = torch.zeros(subject.d_model, len(list(every_writer(clean))))
    points = path_shares(steps) if shares is None else shares
    with frozen_weights(subject.model):
        for share in points:
            total += _at(clean, other, measure, share)
    return total / len(points)


def _at(base: Recording, donor: Recording, measure: Measure, share: float) -> Float[Tensor, "unit writer"]:
    """From the gradients at one point of the way between the embeddings."""
    heard_in = heard_by(list(every_reader(base)))
    where, at_readers = slopes_between(base, donor, measure, share, heard_in)
    asked = asked_rows(base, where, base.mask)
    slopes = _by_part(base, heard_in, at_readers)
    parts: list[Tensor] = []
    heard = slopes.pop(len(base.layers))[1]
    for layer in range(len(base.layers) - 1, -1, -1):
        attention, mlp = slopes.pop(layer)
        between = heard if anatomy.is_parallel(base.subject.layers[layer]) else heard + mlp
        said = written_by_layer(base, donor, where, layer)
        parts.append(torch.cat([_units(said[:-1], between, asked), _units(said[-1:], heard, asked)], 1))
        heard = heard + attention + mlp
    parts.append(_units(written_by_layer(base, donor, where, -1), heard, asked))
    return torch.cat(parts[::-1], 1)


def _by_part(base: Recording, heard: ByLayer, slopes: Slopes) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer the gradients at all that its attention (or mixer) reads together, and at what its MLP reads; behind the
    last layer that of the output.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for layer, each in slopes:
        sums: list[Tensor | float] = [0.0, 0.0]
        for reader, slope in zip(heard[layer], each, strict=True):
            sums[reader.kind in ("mlp", "final")] += slope.to(base.mask.device)
        found[layer] = (torch.as_tensor(sums[0]), torch.as_tensor(sums[1]))
    return found


def _units(
    said: Float[Tensor, "writer b s d"], slope: Float[Tensor, "b s d"], asked: Bool[Tensor, "b s"]
) -> Float[Tensor, "d writer"]:
    heard = (slope * asked[..., None]).to(said)
    return torch.einsum("wbsd,bsd->dw", said, heard).cpu()
