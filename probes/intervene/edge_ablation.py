"""Circuits of edges run for real: every reader hears the chosen writers as they now speak, and the others ablated.

An edge is the path from a writer (embeddings, head, MLP) to a reader's own input (a head's query, key or value, an MLP,
the final residual), as in `edge_attribution`. A reader of a circuit is given the residual in which every writer whose
edge is not kept says what it says in the donor's run, or on average, or nothing; everything is computed again from
there, layer by layer (arXiv 2403.17806, 2504.13151; with all edges of a writer alike it is a circuit of nodes). Where a
norm stands between heads and residual, each run's scale is held, as in `edge_attribution`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import InterventionError, UserError
from ..model import anatomy
from ..model.attention import replaying
from ..model.frozen_norms import written_by_heads
from ..model.subject import refuse_under_edit
from ..model.tolerance import through_limit
from ..observe.gates import require_no_gate_of_the_residual
from ..observe.tracing import rewrite_output
from ..sites import SITES
from . import replay_attention
from .edge_graph import every_reader, every_writer, possible_edges
from .edge_slopes import Reader
from .layer_parts import arguments_at, instead_of, reading
from .measures import Measure
from .positions import Positions, at_last, diverging_positions
from .proofs import cost_notes, moved_by, obstacle_of
from .readout import BUDGET, clean_values, measured
from .recording import Recording
from .sweep import Inputs, Sweep, recorded, same_layout

if TYPE_CHECKING:
    from ..model.subject import Subject

PARTS = ("z", "mlp_out")


class Written(NamedTuple):
    """What writers say in the place of their own: embeddings [d], and of each layer its heads and MLP [h + 1, d], or
    with axes for examples and positions behind the first, [h + 1, b or 1, p or 1, d].
    """

    embeddings: Tensor
    layers: Sequence[Tensor]


@torch.no_grad()
def edge_sweep(
    subject: Subject,
    base: Inputs,
    donor: Inputs | Written,
    circuits: Iterable[Bool[Tensor, "reader writer"]],
    *,
    measure: Measure,
    units: bool = False,
    budget: int = BUDGET,
) -> Sweep:
    """The measure with the edges of each circuit alone, values [circuit, b].

    circuits: which edges are kept, Bool[reader, writer], in the order of `every_reader` and `every_writer`; what is
    true where there is no edge is ignored. units: circuits are Bool[unit, writer] instead, the coordinates of what a
    writer says that all its readers hear as they are now (MIB's neurons). donor: the run, or the `Written`, that speaks
    at all that is not kept. A circuit of all is the clean run and one of nothing the donor's: both are run and proved
    first. UserError: prompts of other lengths, equal runs, a circuit of another model, a family with mixers, gates or
    features between its layers, or one that cannot be replayed. InterventionError: a run that differs from what it has
    to be.
    """
    refuse_under_edit(subject, "circuits of edges")
    require_no_gate_of_the_residual(subject, "circuits of edges")
    clean = recorded(subject, base, PARTS)
    speaking = donor if isinstance(donor, Written) else recorded(subject, donor, PARTS)
    if isinstance(speaking, Recording):
        same_layout(clean, speaking)
    require_plain(clean)
    circuit = _Circuit(clean, speaking)
    values = [measured(clean, circuit.resid(kept, units)[None], measure, budget)[0] for kept in circuits]
    none = clean_values(clean, measure)
    found = torch.stack(values) if values else none[None][:0]
    donors = measured(clean, circuit.empty[None], measure, budget)[0]
    return Sweep(found, none, donor=donors, notes=cost_notes(subject, ""), axes=("circuit", "example"))


def mean_written(subject: Subject, runs: Iterable[Recording]) -> Written:
    """What each writer says on average, over all real positions of the runs (recorded with z and mlp_out)."""
    total: list[Tensor] = []
    count = 0
    for run in runs:
        real = run.mask
        said = [part[:, real.to(part.device)].sum(1).double().cpu() for part in _said(run, run.everywhere)]
        total = [a + b for a, b in zip(total, said, strict=True)] if total else said
        count += int(real.sum())
    if not count:
        raise UserError("a mean of what writers say needs at least one run")
    embeddings, *layers = [(part / count).float() for part in total]
    return Written(embeddings[0], layers)


def silence(subject: Subject) -> Written:
    """Nothing said: zero ablation."""
    zero = torch.zeros(subject.n_heads + 1, subject.d_model)
    return Written(zero[0], [zero] * subject.n_layers)


def require_plain(base: Recording) -> None:
    """UserError: layers that cannot be replayed, or in which something else than heads and MLP writes."""
    subject, what = base.subject, "circuits of edges"
    if obstacle := obstacle_of(base):
        raise UserError(f"{what}: {subject.family}: {obstacle}")
    for i, record in enumerate(base.layers):
        if not record.attends or record.whole or record.mixed is not None:
            raise UserError(f"{what}: another mixer than attention writes in layer {i} of {subject.family}")
        if record.added is not None or subject.decoder.has(i, SITES["beside_out"]):
            raise UserError(f"{what}: layer {i} of {subject.family} adds what no head or MLP writes")


def _said(run: Recording, where: Positions) -> Iterable[Float[Tensor, "writer b s d"]]:
    """What embeddings, and each layer's heads and MLP, say at the rows."""
    yield where.take(run.layers[0].resid_pre).float()[None]
    for i, record in enumerate(run.layers):
        z = where.take(record.site("z"))
        heads = written_by_heads(run.subject, i, z.flatten(0, 1))[0].unflatten(0, z.shape[:2]).permute(2, 0, 1, 3)
        mlp = where.take(record.site("mlp_out")).float()
        yield torch.cat([heads, anatomy.times(mlp, anatomy.gain(run.subject.layers[i], "mlp_out"))[None]])


class _Circuit:
    """The clean run at the rows that a donor can change, ready to be run again with some edges kept."""

    def __init__(self, base: Recording, donor: Recording | Written) -> None:
        self.base, self.subject = base, base.subject
        self.where = diverging_positions(base, donor) if isinstance(donor, Recording) else base.everywhere
        self.donor = list(_said(donor, self.where)) if isinstance(donor, Recording) else _broadcast(donor)
        self.readers, self.writers = list(every_reader(base)), list(every_writer(base))
        self.possible = possible_edges(base)
        self.visible: replay_attention.Visible = {}
        self.empty = self._proved(donor if isinstance(donor, Recording) else None)

    def _proved(self, donor: Recording | None) -> Float[Tensor, "b d"]:
        """The last residual without any edge; proved with all of them, and where there is a donor without."""
        norm, place = self.subject.norm, f"{self.subject.family} ({self.subject.name}), circuits of edges"
        limit = through_limit(len(self.base.layers))
        empty = self.resid(torch.zeros_like(self.possible))
        runs = [("with every edge", self.resid(self.possible), self.base.resid)]
        runs += [("without any", empty, donor.resid)] if donor is not None else []
        for name, found, expected in runs:
            if not (off := moved_by(norm(found.to(expected)), norm(expected))) <= limit:
                raise InterventionError(f"{place}: {name} the last state is off by {off:.2g} of its length")
        if donor is not None and not moved_by(norm(donor.resid), norm(self.base.resid)) > limit:
            raise UserError("circuits of edges: the donor's run equals the base's: nothing to ablate with")
        return empty

    def resid(self, kept: Bool[Tensor, "reader writer"], units: bool = False) -> Float[Tensor, "b d"]:
        """The residual behind the last layer at the last position, with these edges alone."""
        there = torch.ones(self.subject.d_model, len(self.writers), dtype=torch.bool) if units else self.possible
        if kept.shape != there.shape:
            raise UserError(
                f"a circuit of {kept.shape[0]} {'units' if units else 'readers'} × {kept.shape[1]} writers; "
                f"{self.subject.name} has {there.shape[0]} × {there.shape[1]}"
            )
        run = _Run(self, there & ~kept.cpu(), units)
        for layer in range(len(self.base.layers)):
            run.through(layer)
        return at_last(run.heard([len(self.readers) - 1])[0], self.where.last)


def _broadcast(said: Written) -> list[Tensor]:
    """With axes for examples and positions."""
    parts = [said.embeddings[None], *said.layers]
    return [part if part.ndim == 4 else part[:, None, None] for part in parts]


class _Run:
    """One circuit's run. state: the sum of all that was written so far, [b, s, d]; apart: the donor's part minus what
    the writer now says, of all writers so far.
    """

    def __init__(self, circuit: _Circuit, lost: Bool[Tensor, "reader writer"], units: bool) -> None:
        self.circuit, self.base, self.where, self.lost, self.units = circuit, circuit.base, circuit.where, lost, units
        self.state = self.where.take(self.base.layers[0].resid_pre).float()
        self.apart = self.state.new_empty(len(circuit.writers), *self.state.shape)
        self.count = 0
        self._add(circuit.donor[0], self.state[None])

    def _add(self, donor: Tensor, said: Float[Tensor, "writer b s d"]) -> None:
        self.apart[self.count : self.count + len(said)] = donor.to(said) - said
        self.count += len(said)

    def heard(self, readers: Sequence[int]) -> Float[Tensor, "reader b s d"]:
        """What each of these readers is given: the state, with the donor's part at every edge that is lost."""
        lost = (self.lost if self.units else self.lost[list(readers)])[:, : self.count].to(self.state)
        if not bool(lost.any()):
            return self.state.expand(len(readers), *self.state.shape)
        if self.units:
            heard = self.state + torch.einsum("dw,wbsd->bsd", lost, self.apart[: self.count])
            return heard.expand(len(readers), *heard.shape)
        return self.state + torch.einsum("rw,wbsd->rbsd", lost, self.apart[: self.count])

    def through(self, layer: int) -> None:
        """Runs a layer, heads first."""
        subject, block = self.circuit.subject, self.circuit.subject.layers[layer]
        here = [i for i, reader in enumerate(self.circuit.readers) if reader.layer == layer]
        z = self._attend(layer, [i for i in here if self.circuit.readers[i].kind in "qkv"])
        heads, bias = written_by_heads(subject, layer, z.flatten(0, 1))
        written = (heads.sum(1) + bias).unflatten(0, z.shape[:2])
        donor = self.circuit.donor[layer + 1]
        mlp, parallel = here[-1], anatomy.is_parallel(block)
        entering = self.heard([mlp])[0] if parallel else None  # before the heads of its own layer
        self.state = self.state + written
        self._add(donor[:-1], heads.unflatten(0, z.shape[:2]).permute(2, 0, 1, 3))
        heard = self.heard([mlp])[0] if entering is None else entering
        said = self._feed_forward(layer, heard, None if parallel else (z, written))
        self.state = self.state + said
        self._add(donor[-1:], said[None])

    def _attend(self, layer: int, readers: Sequence[int]) -> Float[Tensor, "b s h e"]:
        """z, each head from its own query, key and value."""
        record, block, b = self.base.layers[layer], self.circuit.subject.layers[layer], len(self.state)
        alike = self.units or not bool(self.lost[list(readers)].any())
        heard = self.heard(readers[:1] if alike else readers)
        arguments = arguments_at(self.base, self.where, record.arguments, len(heard))
        call = reading(block, arguments | {"hidden_states": heard.flatten(0, 1).to(record.resid_pre.dtype)})
        read = {"q": call.query, "k": call.key, "v": call.value}
        parts: dict[str, list[Tensor]] = {part: [] for part in read}
        for row, reader in enumerate(self.circuit.readers[i] for i in readers):
            own = read[reader.kind].unflatten(0, (len(heard), b))
            parts[reader.kind].append(own[row if len(heard) > 1 else 0, :, reader.head])
        query, key, value = (torch.stack(heads, 1) for heads in parts.values())
        own_call = call.edited(query=query, key=key, value=value)
        return replay_attention.attend(
            own_call, record, record.key, record.value, self.where, [], self.circuit.visible
        )[0]

    def _feed_forward(
        self, layer: int, heard: Float[Tensor, "b s d"], attention: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "b s d"]:
        """What the MLP adds to the residual when it is given `heard`: the block enters with what the attention's
        writing, z's, brings there. attention: z and what it adds; None where both read the same state.
        """
        record, block = self.base.layers[layer], self.circuit.subject.layers[layer]
        told: list[Tensor] = []

        def keep(written: Tensor) -> Tensor:
            told.append(written)
            return written

        dtype = record.resid_pre.dtype
        if attention is None:
            entering, projected = heard, torch.zeros_like(heard)
        else:
            entering = heard - attention[1]
            projected = anatomy.output_projection(block)(attention[0].flatten(2))
        arguments = arguments_at(self.base, self.where, record.arguments, 1) | {"hidden_states": entering.to(dtype)}
        with replaying(), instead_of(anatomy.attention_of(block), projected.to(dtype)), ExitStack() as stack:
            rewrite_output(stack, block, "mlp_out", keep)
            block(**arguments)
        return anatomy.times(told[-1].reshape(heard.shape).float(), anatomy.gain(block, "mlp_out"))


__all__ = ["Reader", "Written", "edge_sweep", "mean_written", "require_plain", "silence"]
