"""Edge attribution: what patching every edge between heads, MLPs and the residual stream would do, from gradients.

(donor − base's writing) · the gradient at the reader's own input (arXiv 2310.10348, 2403.17806); see `attribution`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..model import anatomy
from ..model.frozen_norms import attention_tail, written_by_heads
from ..model.subject import refuse_under_edit
from ..observe.gates import require_no_gate_of_the_residual
from .attribution import frozen_weights, path_shares, recorded_pair
from .edge_slopes import Reader, slopes_at_rows
from .edge_slopes_whole import slopes_of_forward
from .measures import Measure
from .positions import Positions, diverging_positions
from .proofs import obstacle_of
from .recording import LayerRecord, Recording
from .sweep import Inputs

if TYPE_CHECKING:
    from ..model.subject import Subject


# Bytes of the gradients of a layer's readers that are held at once.
BUDGET = 2**28


BOTH_ENDS = (0.0, 1.0)  # "clean-corrupted" of hannamw/EAP-IG


def official_points(steps: int) -> list[float]:
    """Where hannamw/EAP-IG takes the gradients of EAP-IG: from the donor on, and never at the base. Rectangles: with
    few steps farther from the integral than the midpoints.
    """
    return [1 - i / steps for i in range(steps)]


class Writer(NamedTuple):
    """What writes into the residual stream: kind "embed" (layer −1), "head", "mixer" (in the place of heads) or "mlp";
    head is −1 but for heads.
    """

    kind: str
    layer: int
    head: int


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
) -> Edges:
    """The estimated effect of every edge: (donor's − base's writing) · gradient at the reader's own input.

    Readers are the inputs (before the norm) of every head's query, of every KV head's key and value, of every mixer in
    the place of heads, of every MLP, and the final residual. readers: these alone; positions: what they read there
    alone. shares: where on the way from base (0) to donor (1) gradients are taken, by default in the middle of `steps`
    equal parts (the base alone where that is 1); see `official_points`, `BOTH_ENDS`. Where a norm stands between heads
    and residual, each run's scale is held as it is. UserError: such a norm
    behind an output bias, whose part would be nobody's; heads with a gate (GateError), whose reading is no edge; a
    mixer beside heads; an edit around it; a reader that does not exist; prompts of other lengths; fewer than one step.
    """
    refuse_under_edit(subject, "edge attribution")
    attending = [subject.layers[i] for i in subject.decoder.attending]
    if any(attention_tail(layer) is not None and anatomy.output_bias(layer) is not None for layer in attending):
        raise UserError(f"{subject.family} norms its heads and a bias together: heads have no edges of their own")
    require_no_gate_of_the_residual(subject, "edge attribution")
    clean, other = recorded_pair(subject, base, donor, ("z", "mlp_out"))
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
        for share in points:
            _add_edges(total, clean, other, measure, share, chosen, clean.mask if positions is None else positions)
    before = _possible(subject, chosen, writers)
    return Edges((total / len(points)).masked_fill(~before[..., None], torch.nan), chosen, writers)


def _add_edges(
    total: Float[Tensor, "reader writer b"],
    base: Recording,
    donor: Recording,
    measure: Measure,
    share: float,
    readers: Sequence[Reader],
    positions: Bool[Tensor, "b p"],
) -> None:
    """Adds the effects that the gradient at one point of the way says, a few readers at a time.

    Where both runs are the same, writers say the same: only the rows where they part are read.
    """
    whole = bool(obstacle_of(base))
    where = base.everywhere if whole else diverging_positions(base, donor)
    asked = where.take(positions.to(where.real.device) & base.mask) & where.real
    places = {layer: [i for i, r in enumerate(readers) if r.layer == layer] for layer in {r.layer for r in readers}}
    by_layer = {layer: [readers[i] for i in here] for layer, here in sorted(places.items())}
    slopes = (slopes_of_forward if whole else slopes_at_rows)(base, donor, where, measure, share, by_layer)
    step = max(1, BUDGET // (4 * asked.numel() * base.subject.d_model))
    for layer, each in slopes:
        pairs = zip(places[layer], each, strict=True)
        while some := list(islice(pairs, step)):
            read = torch.stack([slope.to(asked.device) for _, slope in some]) * asked[..., None]
            # One layer's writers at a time: all of them would be as large as a few hundred residual streams.
            parts = _written(base, donor, where, layer)
            heard = torch.cat([torch.einsum("rbsd,wbsd->rwb", read, w.to(read.device)).cpu() for w in parts], 1)
            total[[place for place, _ in some], : heard.shape[1]] += heard


def possible_edges(base: Recording) -> Bool[Tensor, "reader writer"]:
    """Which of all writers every reader can hear."""
    return _possible(base.subject, list(every_reader(base)), list(every_writer(base)))


def edge_owners(base: Recording) -> Bool[Tensor, "reader writer"]:
    """Which writer's own reading every reader does: a shared key or value is several heads'; the output is nobody's."""
    shared = base.subject.n_heads // max(1, max(record.value.shape[1] for record in base.layers))

    def owns(reader: Reader, writer: Writer) -> bool:
        if reader.layer != writer.layer:
            return False
        if reader.kind in ("k", "v"):
            return writer.kind == "head" and writer.head // shared == reader.head
        return writer.kind == {"q": "head"}.get(reader.kind, reader.kind) and writer.head == reader.head

    return torch.tensor([[owns(reader, writer) for writer in every_writer(base)] for reader in every_reader(base)])


def _possible(subject: Subject, readers: Sequence[Reader], writers: Sequence[Writer]) -> Bool[Tensor, "reader writer"]:
    return torch.tensor([[_before(w, r, subject) for w in writers] for r in readers])


def every_writer(base: Recording) -> Iterator[Writer]:
    """What writes into the residual stream of a model, in order."""
    yield Writer("embed", -1, -1)
    for i, record in enumerate(base.layers):
        yield from (Writer("head", i, head) for head in range(base.subject.n_heads if record.attends else 0))
        yield from [Writer("mixer", i, -1)] if record.mixed is not None else []
        yield Writer("mlp", i, -1)


def every_reader(base: Recording) -> Iterator[Reader]:
    """What reads the residual stream of a model, in the order of its layers."""
    for i, record in enumerate(base.layers):
        kv_heads = record.value.shape[1] if record.attends else 0
        for part, heads in (("q", base.subject.n_heads), ("k", kv_heads), ("v", kv_heads)):
            yield from (Reader(part, i, head) for head in range(heads if record.attends else 0))
        yield from [Reader("mixer", i, -1)] if record.mixed is not None else []
        yield Reader("mlp", i, -1)
    yield Reader("final", len(base.layers), -1)


def _written(
    base: Recording, donor: Recording, where: Positions, until: int
) -> Iterator[Float[Tensor, "writer b s d"]]:
    """What the embeddings, then each layer's heads and MLP, add at the rows in the donor's run and not in the base's.

    until: the layer of the readers, whose own writers are the last that any of them can hear.
    """
    subject = base.subject
    yield _apart(where, base.layers[0].resid_pre, donor.layers[0].resid_pre).float()[None]
    for i, (ours, theirs) in enumerate(zip(base.layers[: until + 1], donor.layers, strict=False)):
        mlp = _apart(where, ours.site("mlp_out"), theirs.site("mlp_out")).float()
        mlp = anatomy.times(mlp, anatomy.gain(subject.layers[i], "mlp_out"))
        yield torch.cat([*_mixed_apart(subject, i, where, ours, theirs), mlp[None]])


def _apart(where: Positions, ours: Tensor, theirs: Tensor) -> Tensor:
    """The difference of two runs at the rows."""
    return where.take(theirs) - where.take(ours)


def _mixed_apart(
    subject: Subject, layer: int, where: Positions, ours: LayerRecord, theirs: LayerRecord
) -> list[Float[Tensor, "writer b s d"]]:
    """What a layer's heads, or its mixer, write in one run and not in the other."""
    if ours.attends:
        return [_heads_apart(subject, layer, where.take(ours.site("z")), where.take(theirs.site("z")))]
    if ours.mixed is None or theirs.mixed is None:
        return []
    mixed = _apart(where, ours.mixed, theirs.mixed).float()
    return [anatomy.times(mixed, anatomy.gain(subject.layers[layer], "attn_out"))[None]]


def _heads_apart(
    subject: Subject, layer: int, ours: Float[Tensor, "b s h e"], theirs: Float[Tensor, "b s h e"]
) -> Float[Tensor, "h b s d"]:
    """What the heads write in one run and not in the other."""
    if attention_tail(subject.layers[layer]) is None:  # linear: small differences keep their digits
        heads = written_by_heads(subject, layer, (theirs - ours).flatten(0, 1))[0]
    else:
        heads = torch.sub(*(written_by_heads(subject, layer, z.flatten(0, 1))[0] for z in (theirs, ours)))
    return heads.unflatten(0, ours.shape[:2]).permute(2, 0, 1, 3)


def _before(writer: Writer, reader: Reader, subject: Subject) -> bool:
    """Whether a writer has written when a reader reads."""
    same = (
        reader.kind == "mlp"
        and writer.kind in ("head", "mixer")
        and not anatomy.is_parallel(subject.layers[reader.layer])
    )
    return writer.layer < reader.layer or (same and writer.layer == reader.layer)
