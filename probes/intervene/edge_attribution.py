"""Edge attribution: what patching every edge between heads, MLPs and the residual stream would do, from gradients.

(donor − base's writing) · the gradient at the reader's own input (arXiv 2310.10348, 2403.17806); see `attribution`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..model import anatomy
from ..model.attention import replaying
from ..model.frozen_norms import attention_tail, written_by_heads
from ..model.subject import refuse_under_edit
from ..observe.gates import require_no_gate_of_the_residual
from ..observe.layer import Layer
from ..observe.tracing import first, rewrite_output
from .attribution import GradientRun, frozen_weights, path_shares, recorded_pair, run_with_gradient
from .layer_parts import instead_of, reading
from .measures import Measure
from .recording import LayerRecord, Recording
from .sweep import Inputs

if TYPE_CHECKING:
    from ..model.subject import Subject


class Writer(NamedTuple):
    """What writes into the residual stream: kind "embed" (layer −1), "head", "mixer" (in the place of heads) or "mlp";
    head is −1 but for heads.
    """

    kind: str
    layer: int
    head: int


class Reader(NamedTuple):
    """What reads the residual stream: kind "q", "k", "v" (of a query or KV head), "mixer", "mlp", "final" (layer L)."""

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
    readers: Collection[Reader] | None = None,
    positions: Bool[Tensor, "b p"] | None = None,
) -> Edges:
    """The estimated effect of every edge: (donor's − base's writing) · gradient at the reader's own input.

    Readers are the inputs (before the norm) of every head's query, of every KV head's key and value, of every mixer in
    the place of heads, of every MLP, and the final residual. readers: these alone; positions: what they read there
    alone. Where a norm stands between heads and residual, each run's scale is held as it is. UserError: such a norm
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
    where = (clean.mask if positions is None else positions.to(clean.mask.device) & clean.mask)[..., None]
    writers = list(every_writer(clean))
    total = torch.zeros(len(chosen), len(writers), len(where))
    for share in path_shares(steps):
        with frozen_weights(subject.model):
            run = run_with_gradient(clean, other, measure, share, ("resid_pre",))
            behind = run.behind()
            for layer, group in groupby(enumerate(chosen), key=lambda place: place[1].layer):
                places, here = zip(*group, strict=True)
                each = [slope.to(where.device) for slope in _reader_slopes(run, behind, layer, here)]
                slopes = torch.stack(each) * where
                # One layer's writers at a time: all of them would be as large as a few hundred residual streams.
                parts = _written(clean, other, layer)
                written = [torch.einsum("rbpd,wbpd->rwb", slopes, w.to(where.device)).cpu() for w in parts]
                total[list(places), : sum(w.shape[1] for w in written)] += torch.cat(written, 1) / steps
    before = torch.tensor([[_before(w, r, subject) for w in writers] for r in chosen])
    return Edges(total.masked_fill(~before[..., None], torch.nan), chosen, writers)


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


def _written(base: Recording, donor: Recording, until: int) -> Iterator[Float[Tensor, "writer b p d"]]:
    """What the embeddings, then each layer's heads and MLP, add in the donor's run and not in the base's.

    until: the layer of the readers, whose own writers are the last that any of them can hear.
    """
    subject = base.subject
    yield (donor.layers[0].resid_pre - base.layers[0].resid_pre).float()[None]
    for i, (ours, theirs) in enumerate(zip(base.layers[: until + 1], donor.layers, strict=False)):
        mlp = (theirs.site("mlp_out") - ours.site("mlp_out")).float()
        mlp = anatomy.times(mlp, anatomy.gain(subject.layers[i], "mlp_out"))
        yield torch.cat([*_mixed_apart(subject, i, ours, theirs), mlp[None]])


def _mixed_apart(
    subject: Subject, layer: int, ours: LayerRecord, theirs: LayerRecord
) -> list[Float[Tensor, "writer b p d"]]:
    """What a layer's heads, or its mixer, write in one run and not in the other."""
    if ours.attends:
        return [_heads_apart(subject, layer, ours.site("z"), theirs.site("z"))]
    if ours.mixed is None or theirs.mixed is None:
        return []
    mixed = (theirs.mixed - ours.mixed).float()
    return [anatomy.times(mixed, anatomy.gain(subject.layers[layer], "attn_out"))[None]]


def _heads_apart(
    subject: Subject, layer: int, ours: Float[Tensor, "b p h e"], theirs: Float[Tensor, "b p h e"]
) -> Float[Tensor, "h b p d"]:
    """What the heads write in one run and not in the other."""
    if attention_tail(subject.layers[layer]) is None:  # linear: small differences keep their digits
        heads = written_by_heads(subject, layer, (theirs - ours).flatten(0, 1))[0]
    else:
        heads = torch.sub(*(written_by_heads(subject, layer, z.flatten(0, 1))[0] for z in (theirs, ours)))
    return heads.unflatten(0, ours.shape[:2]).permute(2, 0, 1, 3)


def _reader_slopes(
    run: GradientRun, behind: list[list[Tensor]], i: int, readers: Sequence[Reader]
) -> Iterator[Float[Tensor, "b p d"]]:
    """The gradient at the own input of each of these readers of layer i."""
    if i == len(run.layers):
        yield behind[-1][-1]
        return
    block, layer = run.subject.layers[i], run.layers[i]
    state = layer.resid_pre.detach().requires_grad_()
    arguments = layer.arguments | {"hidden_states": state}
    if not layer.attends:
        yield from _slopes_without_heads(block, arguments, layer, behind[i], readers)
        return
    with torch.enable_grad():
        again = reading(block, arguments)
        *slopes, leaving_slope = behind[i]
        read = dict(zip("qkv", zip((again.query, again.key, again.value), slopes, strict=True), strict=True))
        for reader in readers:
            if reader.kind != "mlp":
                tensor, slope = read[reader.kind]
                yield _pulled(tensor[:, reader.head], state, slope[:, reader.head])
                continue
            written = anatomy.output_projection(block)(layer.z.detach().flatten(2)).detach()
            with replaying(), instead_of(anatomy.attention_of(block), written):
                leaving = first(block(**arguments))
            yield _pulled(leaving, state, leaving_slope) - leaving_slope


def _slopes_without_heads(
    block: Any, arguments: dict[str, Any], layer: Layer, behind: list[Tensor], readers: Sequence[Reader]
) -> Iterator[Float[Tensor, "b p d"]]:
    """The same of a layer with a mixer in the place of heads: of the mixer, or of the MLP with the mixer held."""
    state, (*mixer_slopes, leaving_slope) = arguments["hidden_states"], behind
    for reader in readers:
        mixed: list[Tensor] = []

        def keep(written: Tensor, reader: Reader = reader, mixed: list[Tensor] = mixed) -> Tensor:
            mixed.append(written)
            return written.detach() if reader.kind == "mlp" else written

        with torch.enable_grad(), replaying(), ExitStack() as stack:
            if mixer_slopes:
                rewrite_output(stack, block, "attn_out", keep)
            leaving = first(block(**arguments))
            if reader.kind == "mixer":
                yield _pulled(mixed[0], state, mixer_slopes[0])
            else:
                yield _pulled(leaving, state, leaving_slope) - leaving_slope


def _pulled(output: Tensor, state: Tensor, slope: Tensor) -> Tensor:
    """A gradient at `output` pulled back to `state`."""
    return torch.autograd.grad(output, state, slope.to(output), retain_graph=True)[0].detach().float()


def _before(writer: Writer, reader: Reader, subject: Subject) -> bool:
    """Whether a writer has written when a reader reads."""
    same = (
        reader.kind == "mlp"
        and writer.kind in ("head", "mixer")
        and not anatomy.is_parallel(subject.layers[reader.layer])
    )
    return writer.layer < reader.layer or (same and writer.layer == reader.layer)
