"""Path patching: what a head says reaches a receiver through residual stream and MLPs alone, all other heads frozen.

The sender's z comes from the donor run, every other head's stays clean, and so does what mixers in the place of
attention write; MLPs are computed again (or frozen too). A receiver is the final residual (the direct effect) or the
query, key or value of a head, whose run is then finished with everything behind it live. Nothing moves between
positions before the receiver, so only the receiver's positions are computed: a chain of MLPs, all senders as one batch.
Exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import InterventionError, UserError
from ..model import anatomy
from ..model.attention import replaying
from ..model.hybrid import named
from ..model.tolerance import through_limit
from ..observe.tracing import first, rewrite_output
from .float32 import in_float32, is_half, recorded_again
from .intervening import full_forward
from .interventions import Patch, PatchQKV, Variant
from .layer_parts import arguments_at, instead_of, reading
from .measures import Measure
from .positions import Positions, affected_positions, positions_of
from .proofs import FACTOR, ROUNDING, cost_notes, obstacle_of
from .readout import BUDGET, bytes_per_variant, clean_values, measured
from .recording import Recording
from .replay import replay
from .sweep import Inputs, Sweep, in_all_layers, recorded, same_layout

if TYPE_CHECKING:
    from ..model.subject import Subject

FINAL = "final"
MLPS = ("recomputed", "frozen")


class Receiver(NamedTuple):
    """What a head reads with: part "q", "k" or "v"."""

    layer: int
    head: int
    part: str


class Sender(NamedTuple):
    layer: int
    head: int
    z: Tensor  # [b, p, h, d_head] of its layer, of which the head's part is taken


@torch.no_grad()
def path_sweep(
    subject: Subject,
    base: Inputs,
    donor: Inputs,
    receivers: str | Sequence[Receiver] = FINAL,
    *,
    measure: Measure,
    positions: Bool[Tensor, "b p"] | None = None,
    mlps: str = "recomputed",
    budget: int = BUDGET,
) -> Sweep:
    """The path from every head to `receivers` patched, one sender at a time (arXiv 2211.00593, 2310.08744).

    receivers: "final", the residual behind the last layer at the last position; or heads' queries, keys and values at
    `positions` (None: every real one), all of them together. mlps: "recomputed", or "frozen" to the clean run.
    Returns values [layer, head, b], NaN in layers without attention, clean and donor [b]; a sender behind all receivers
    leaves the clean value. UserError: prompts of other lengths, equal runs, an unknown receiver, a mixer beside an
    attention, a family whose layers cannot be replayed (of heads as receivers). InterventionError: an edit without
    effect.
    """
    if mlps not in MLPS:
        raise UserError(f"mlps {mlps!r}: {' or '.join(map(repr, MLPS))}")
    clean = recorded(subject, base, ("z", "mlp_out") if mlps == "frozen" else ("z",))
    other = recorded(subject, donor, ("z",))
    same_layout(clean, other)
    attending = _attending(clean)
    if all(torch.equal(clean.layers[i].site("z"), other.layers[i].site("z")) for i in attending):
        raise UserError("path patching: the donor's activations equal the base's: nothing to patch")
    chosen = () if receivers == FINAL else _receivers(clean, receivers)
    heard = clean.mask if positions is None else positions.to(clean.mask.device) & clean.mask
    where = clean.final if receivers == FINAL else heard
    senders = [Sender(i, h, other.layers[i].site("z")) for i in attending for h in range(subject.n_heads)]
    nothing = _saying_nothing(clean)
    paths = _Paths(clean, positions_of(where, clean.last), where, chosen, mlps == "frozen")
    values, moved = [], []
    for part in _chunks([nothing, *senders], clean, paths.where, budget):
        resid = paths.resid(part)
        values.append(measured(clean, resid, measure, budget))
        moved.append(_moved(clean, resid))
    if paths.differs_from(other):
        by = torch.cat(moved)
        _prove(clean, by if not is_half(subject) else _moved_in_float32(paths, _strongest(paths, senders, by[1:])))
    by_head = torch.cat(values)[1:].unflatten(0, (len(attending), subject.n_heads))
    base_values = clean_values(clean, measure)
    if chosen:
        by_head[[i >= paths.stop - 1 for i in attending]] = base_values  # behind all receivers
    axes = ("layer", "head", "example")
    sweep = Sweep(by_head, base_values, donor=clean_values(other, measure), notes=_notes(clean), axes=axes)
    return in_all_layers(sweep, attending, subject.n_layers)


def _attending(base: Recording) -> list[int]:
    """The layers with heads. UserError: a mixer beside an attention, which writes together with the heads."""
    attending = [i for i, layer in enumerate(base.layers) if layer.attends]
    if beside := [i for i in attending if base.layers[i].whole]:
        what = "another mixer stands beside the heads and cannot be held as it is"
        raise UserError(f"path patching: {what} in layer {beside[0]} of {base.subject.family}")
    return attending


def _saying_nothing(base: Recording) -> Sender:
    """The identity: a head that says what it says."""
    first_one = _attending(base)[0]
    return Sender(first_one, 0, base.layers[first_one].site("z"))


def _receivers(base: Recording, receivers: str | Sequence[Receiver]) -> tuple[Receiver, ...]:
    """The receivers, checked. UserError names the one that does not exist."""
    if isinstance(receivers, str) or not receivers:
        raise UserError(f"receivers {receivers!r}: 'final', or at least one (layer, head, 'q', 'k' or 'v')")
    if obstacle := obstacle_of(base):
        raise UserError(f"{base.subject.family}: {obstacle}; only paths to the final residual can be patched")
    subject = base.subject
    for layer, head, part in receivers:
        if not (layer in subject.decoder.attending and 0 <= head < subject.n_heads and part in ("q", "k", "v")):
            heads = f"the {subject.n_heads} heads of {named(subject.decoder.attending)}"
            raise UserError(f"no receiver {(layer, head, part)} in {heads}")
    return tuple(Receiver(*receiver) for receiver in receivers)


def _chunks(senders: list[Sender], base: Recording, where: Positions, budget: int) -> Iterator[list[Sender]]:
    step = max(1, budget // bytes_per_variant(base, where))
    yield from (senders[at : at + step] for at in range(0, len(senders), step))


def _moved(base: Recording, resid: Float[Tensor, "v b d"]) -> Float[Tensor, " v"]:
    """How far each variant moves the normed last residual, as a share of its range."""
    clean = base.subject.norm(base.resid).float()
    change = (base.subject.norm(resid).float() - clean).abs().flatten(1).amax(1)
    return (change / (clean.max() - clean.min())).cpu()


def _strongest(paths: _Paths, senders: Sequence[Sender], moved: Tensor, n: int = 8) -> list[Sender]:
    """The senders that moved most, and those that say most else than the base: roundings may have moved the others."""
    said = torch.zeros(len(senders))
    for i, sender in enumerate(senders):
        if not paths.receivers or sender.layer < paths.stop - 1:
            record = paths.base.layers[sender.layer]
            change = (sender.z - record.site("z"))[:, :, sender.head].float().norm(dim=-1)
            said[i] = float((change / record.resid_pre.float().norm(dim=-1))[paths.positions.to(change.device)].max())
    chosen = {*said.topk(min(n, len(said))).indices.tolist(), *moved.topk(min(n, len(moved))).indices.tolist()}
    return [senders[i] for i in sorted(chosen)]


def _moved_in_float32(paths: _Paths, senders: list[Sender]) -> Float[Tensor, " v"]:
    """The same of the identity and of some senders, where half precision's roundings would hide it."""
    with in_float32(paths.base.subject):
        base = recorded_again(paths.base, {site for layer in paths.base.layers for site in layer.sites})
        again = _Paths(base, paths.where, paths.positions, paths.receivers, paths.frozen)
        return _moved(base, again.resid([_saying_nothing(base), *senders]))


def _prove(base: Recording, moved: Tensor) -> None:
    """The identity, sent down the same path, does nothing; the strongest sender does a hundred times more."""
    still, strongest = float(moved[0]), float(moved[1:].max())
    place = f"{base.subject.family} ({base.subject.name}), path patching"
    if not still <= through_limit(len(base.layers)):
        raise InterventionError(f"{place}: the identity edit moves the residual by {still:.2g} of its range")
    if not strongest > max(FACTOR * still, ROUNDING * torch.finfo(torch.float32).eps):
        raise InterventionError(f"{place}: no sender moves anything ({strongest:.2g})")


def _notes(base: Recording) -> tuple[str, ...]:
    return cost_notes(base.subject, obstacle_of(base))


class _Paths:
    """The chain of one set of receivers, at the positions `where`."""

    def __init__(
        self, base: Recording, where: Positions, positions: Tensor, receivers: Sequence[Receiver], frozen: bool
    ) -> None:
        self.base, self.where, self.positions, self.frozen = base, where, positions, frozen
        self.receivers = receivers
        self.stop = len(base.layers) if not receivers else max(r.layer for r in receivers) + 1

    def differs_from(self, donor: Recording) -> bool:
        """Whether any sender that a receiver may hear says something else in the donor's run."""
        end = self.stop - bool(self.receivers)
        pairs = ((self.base.layers[i], donor.layers[i]) for i in _attending(self.base) if i < end)
        apart = ((a.site("z") != b.site("z")).flatten(2).any(2).to(self.positions.device) for a, b in pairs)
        return any(bool((where & self.positions).any()) for where in apart)

    def resid(self, senders: Sequence[Sender]) -> Float[Tensor, "v b d"]:
        """The residual behind the last layer at the last position, for every sender (in the order of their layers)."""
        if not self.receivers:
            if obstacle_of(self.base):
                return torch.stack([self._full_forward(sender) for sender in senders])
            hidden = self.chain(senders)[0]
            return hidden[:, torch.arange(len(self.where.index)), self.where.last.to(hidden.device)]
        _, inputs = self.chain(senders)
        variants = [self._variant(i, sender, inputs) for i, sender in enumerate(senders)]
        acting = [i for i, variant in enumerate(variants) if variant]
        resid = self.base.resid.expand(len(senders), -1, -1).clone()
        if acting:
            where = affected_positions(self.base, self.positions)
            there = torch.tensor(acting).to(resid.device)
            resid[there] = replay(self.base, where, [variants[i] for i in acting])
        return resid

    def _variant(self, i: int, sender: Sender, inputs: dict[Receiver, Tensor]) -> Variant:
        """What the receivers behind a sender hear from it."""
        changes: dict[int, list[PatchQKV]] = {}
        for receiver in self.receivers:
            if receiver.layer > sender.layer:
                values = inputs[receiver][i]
                change = PatchQKV(receiver.part, receiver.head, self.positions, values, self.where)
                changes.setdefault(receiver.layer, []).append(change)
        return changes

    def chain(self, senders: Sequence[Sender]) -> tuple[Tensor, dict[Receiver, Tensor]]:
        """The residual behind the last layer [v, b, s, d], and what each receiver reads, [v, b, s, d_head].

        With receivers the chain ends at the last one; none hears the senders at or behind its own layer.
        """
        hidden = torch.zeros(0)
        inputs: dict[Receiver, Tensor] = {}
        for index in range(self.stop):
            record = self.base.layers[index]
            hidden = hidden.to(record.resid_pre.device)
            if len(hidden) and record.added is not None:
                hidden = hidden + self.where.take(record.added)
            for receiver in [r for r in self.receivers if r.layer == index and len(hidden)]:
                inputs[receiver] = self._receiver_input(index, hidden, receiver)
            if self.receivers and index == self.stop - 1:
                break
            hidden = self._block(index, hidden, [s for s in senders if s.layer == index])
        return hidden, inputs

    def _block(self, index: int, hidden: Tensor, new: Sequence[Sender]) -> Tensor:
        """One layer of all that differ and of new senders: attention as recorded, but for what a new sender says."""
        base, where = self.base, self.where
        record, layer = base.layers[index], base.subject.layers[index]
        clean = where.take(record.resid_pre)
        entering = clean[None].expand(len(new), *clean.shape)
        entering = torch.cat([hidden, entering]) if len(hidden) else entering
        if not len(entering):
            return hidden
        with ExitStack() as stack:
            stack.enter_context(replaying())
            if record.attends:
                written = self._written(index, len(hidden), new)
                stack.enter_context(instead_of(anatomy.attention_of(layer), written))
            elif record.mixed is not None:
                self._freeze(stack, index, "attn_out", record.mixed, len(entering))
            if self.frozen:
                self._freeze(stack, index, "mlp_out", record.site("mlp_out"), len(entering))
            arguments = arguments_at(base, where, record.arguments, len(entering))
            return first(layer(**arguments | {"hidden_states": entering.flatten(0, 1)})).reshape(entering.shape)

    def _written(self, index: int, n: int, new: Sequence[Sender]) -> Float[Tensor, "vb s d"]:
        """What the attention writes as recorded, for `n` variants, and what it writes where a new sender speaks."""
        z = self.where.take(self.base.layers[index].site("z"))
        said = z[None].repeat(len(new) + 1, 1, 1, 1, 1)
        for own, sender in zip(said[1:], new, strict=True):
            own[:, :, sender.head] = self.where.take(sender.z)[:, :, sender.head]
        written = anatomy.output_projection(self.base.subject.layers[index])(said.flatten(3))
        return torch.cat([written[:1].expand(n, *written.shape[1:]), written[1:]]).flatten(0, 1)

    def _freeze(self, stack: ExitStack, index: int, site: str, clean: Tensor, n: int) -> None:
        """Until `stack` closes, a part of a layer writes what it wrote in the clean run, in each of `n` variants."""
        still = self.where.take(clean).repeat(n, 1, 1)
        rewrite_output(stack, self.base.subject.layers[index], site, lambda output: still.reshape(output.shape))

    def _receiver_input(self, index: int, hidden: Tensor, receiver: Receiver) -> Float[Tensor, "v b s e"]:
        """A receiver's query, key or value, made from the residual that enters its layer."""
        arguments = arguments_at(self.base, self.where, self.base.layers[index].arguments, len(hidden))
        call = reading(self.base.subject.layers[index], arguments | {"hidden_states": hidden.flatten(0, 1)})
        tensor = {"q": call.query, "k": call.key, "v": call.value}[receiver.part]
        return tensor[:, receiver.head * tensor.shape[1] // call.query.shape[1]].unflatten(0, hidden.shape[:2])

    def _full_forward(self, sender: Sender) -> Float[Tensor, "b d"]:
        """The slow way: a whole forward with everything else frozen."""
        variant: dict[int, list[Patch]] = {}
        for index, record in enumerate(self.base.layers):
            variant[index] = [Patch("z", self.base.mask, record.site("z"))] if record.attends else []
            if record.mixed is not None:
                variant[index].append(Patch("attn_out", self.base.mask, record.mixed))
            if self.frozen:
                variant[index].append(Patch("mlp_out", self.base.mask, record.site("mlp_out")))
        variant[sender.layer].append(Patch("z", self.base.mask, sender.z, (sender.head,)))
        return full_forward(self.base, variant)
