"""Edge attribution: what patching every edge between heads, MLPs and the residual stream would do, from gradients.

(donor − base's writing) · the gradient at the reader's own input (arXiv 2310.10348, 2403.17806); see `attribution`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..model import anatomy
from ..model.frozen_norms import attention_tail
from ..model.subject import refuse_under_edit
from ..observe.gates import require_no_gate_of_the_residual
from .attribution import frozen_weights, path_shares, recorded_pair
from .edge_graph import Writer, every_reader, every_writer, possible
from .edge_slopes import Reader
from .edge_sums import add_along_activations, add_along_inputs
from .measures import Measure
from .proofs import obstacle_of
from .sweep import Inputs

if TYPE_CHECKING:
    from ..model.subject import Subject


SITES = ("z", "mlp_out")  # what both runs are recorded with
WAYS = ("inputs", "activations")
BOTH_ENDS = (0.0, 1.0)  # "clean-corrupted" of hannamw/EAP-IG


def official_points(steps: int) -> list[float]:
    """Where hannamw/EAP-IG takes the gradients of EAP-IG: from the donor on, and never at the base. Rectangles: with
    few steps farther from the integral than the midpoints.
    """
    return [1 - i / steps for i in range(steps)]


def require_edges(subject: Subject, what: str) -> None:
    """UserError: an edit around it, or a family whose writers or readers are no edges' ends."""
    refuse_under_edit(subject, what)
    attending = [subject.layers[i] for i in subject.decoder.attending]
    if any(attention_tail(layer) is not None and anatomy.output_bias(layer) is not None for layer in attending):
        raise UserError(f"{subject.family} norms its heads and a bias together: heads have no edges of their own")
    require_no_gate_of_the_residual(subject, what)


class Edges(NamedTuple):
    """values: [reader, writer, b], summed over positions; NaN where the writer does not come before the reader."""

    values: Float[Tensor, "reader writer b"]
    readers: list[Reader]
    writers: list[Writer]


def edge_attribution(
    subject: Subject,
    base: Inputs,
    donor: Inputs,
    *,
    measure: Measure,
    steps: int = 1,
    shares: Sequence[float] | None = None,
    readers: Collection[Reader] | None = None,
    positions: Bool[Tensor, "b p"] | None = None,
    along: str = "inputs",
) -> Edges:
    """The estimated effect of every edge: (donor's − base's writing) · gradient at the reader's own input.

    Readers are the inputs (before the norm) of every head's query, of every KV head's key and value, of every mixer in
    the place of heads, of every MLP, and the final residual. readers: these alone; positions: what they read there
    alone. shares: where on the way from base (0) to donor (1) gradients are taken, by default in the middle of `steps`
    equal parts (the base alone where that is 1); see `official_points`, `BOTH_ENDS`. along: "inputs", the way is that
    of the embeddings; "activations", for each group of writers (embeddings, a layer's heads, an MLP) that of what they
    write, all before them as in the base: a pair of passes through half the layers for each group and point
    (`get_scores_ig_activations` of hannamw/EAP-IG gives all edges the mean gradient over the runs of all groups).
    Where a norm stands between heads and residual, each run's scale is held as it is. UserError: such a norm behind an
    output bias, whose part would be nobody's; heads with a gate (GateError), whose reading is no edge; a mixer beside
    heads; an edit around it; a reader that does not exist; prompts of other lengths; fewer than one step.
    """
    require_edges(subject, "edge attribution")
    if along not in WAYS:
        raise UserError(f"edge attribution along {along}: one of {', '.join(WAYS)}")
    clean, other = recorded_pair(subject, base, donor, SITES)
    if along != "inputs" and (obstacle := obstacle_of(clean)):
        raise UserError(f"edge attribution along {along}: {subject.family}: {obstacle}")
    if beside := [i for i in subject.decoder.attending if clean.layers[i].whole]:
        raise UserError(
            f"edge attribution: another mixer stands beside the heads of layer {beside[0]}: it has no edges"
        )
    chosen = [r for r in every_reader(clean) if readers is None or r in readers]
    if missing := set(readers or ()) - set(chosen):
        raise UserError(f"no reader {next(iter(missing))} in {subject.family} ({subject.name})")
    writers = list(every_writer(clean))
    total = torch.zeros(len(chosen), len(writers), len(clean.mask))
    with frozen_weights(subject.model):
        points = path_shares(steps) if shares is None else shares
        add = add_along_inputs if along == "inputs" else add_along_activations
        for share in points:
            add(total, clean, other, measure, share, chosen, clean.mask if positions is None else positions)
    there = possible(subject, chosen, writers)
    return Edges((total / len(points)).masked_fill(~there[..., None], torch.nan), chosen, writers)
