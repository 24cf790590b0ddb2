"""Layers replayed: one clean forward is kept, and variants of it ride stacked through the layers that they change.

A variant is a set of changes by layer. It forks from the clean residual at its first changed layer; only the rows
that the change can reach on the way to the last position are computed; they read the clean keys and values of the
other positions, which all variants share. Exact: nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data.example import UserError
from . import anatomy, row_attention
from .attention import AttentionCall, replaying
from .batch import Batch, mark_last
from .capture import own_storage
from .memory import keep_freed_memory
from .subject import last_positions
from .trace import Block, Layer, Rewrite, first, require_writable, rewrite_output, tracing

if TYPE_CHECKING:
    from .subject import Subject

# Arguments of a block that are cut to the rows; the mask is the attention function's own.
_PER_POSITION = ("position_ids", "position_embeddings")


@dataclass(frozen=True, eq=False)
class Kept:
    """One layer of a recorded forward.

    key, value: [b, kv, p, d_head]. allowed: Bool[b or 1, 1 or h, p, p]. added: what came between the layer before and
    this one (Qwen3-VL's image features). sites: z [b, p, h, d_head]; attn_out, mlp_out as `Layer.written`.
    """

    resid_pre: Float[Tensor, "b p d"]
    key: Tensor
    value: Tensor
    allowed: Tensor
    arguments: dict[str, Any]
    added: Tensor | None
    sites: dict[str, Tensor]

    def site(self, name: str) -> Tensor:
        return self.resid_pre if name == "resid_pre" else self.sites[name]


@dataclass(eq=False)
class Recording:
    """A clean forward with what replaying needs. It can stand for its inputs in every sweep, which then runs no other.

    mask: the real positions. last: the last one of each example. resid: the residual behind the last layer, there.
    obstacle: why these layers cannot be replayed, "" where they can. edits: the open blocks of `tracing` that it was
    made in, outermost first; sweeps of it run whole forwards in the same ones.
    """

    subject: Subject
    inputs: dict[str, Any]
    mask: Bool[Tensor, "b p"]
    last: Int[Tensor, " b"]
    layers: list[Kept]
    resid: Float[Tensor, "b d"]
    obstacle: str = ""
    edits: tuple[Block, ...] = ()

    @property
    def final(self) -> Bool[Tensor, "b p"]:
        """The last real position of each example, as a mask."""
        return mark_last(self.mask, self.last)

    @property
    @torch.no_grad()
    def logits(self) -> Float[Tensor, "b vocab"]:
        """The clean logits at the last real position."""
        return self.subject.unembed(self.subject.norm(self.resid)).float()

    @property
    def has_image(self) -> bool:
        return any(name.startswith("pixel_values") for name in self.inputs)

    @cached_property
    def sees(self) -> Bool[Tensor, "b p p"]:
        """Which columns a row may read, in any layer and head."""
        masks = {id(kept.allowed): kept.allowed for kept in self.layers}.values()
        shape = len(self.mask), *self.mask.shape[1:] * 2
        return torch.stack([m.any(1).to(self.mask.device).expand(shape) for m in masks]).any(0)

    @cached_property
    def useful(self) -> Bool[Tensor, "b p"]:
        """The rows that the last position reads, directly or through others."""
        return _closure(self.final, self.sees.transpose(1, 2))

    def require_same_edits(self) -> None:
        """UserError where other edits act now than did while this was recorded."""
        if self.edits != self.subject.active_edits:
            now, then = len(self.subject.active_edits), len(self.edits)
            raise UserError(
                f"the recording was made inside {then} edit(s) of the model, but {now} act now, or others: "
                "record and sweep inside the same block of tracing"
            )


@torch.no_grad()
def record(subject: Subject, inputs: Mapping[str, Any] | Batch, sites: Iterable[str] = ()) -> Recording:
    """Run `inputs` once and keep residuals, keys, values and masks; and `sites` (z, attn_out, mlp_out) on demand.

    Inside an edit it is a recording of the edited model. UserError: an unknown site.
    """
    sites = list(sites)
    for site in sites:
        require_writable(site, "record")
    arguments = subject.prepare(inputs)
    ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    layers: list[Kept] = []
    seen: dict[Any, tuple[Tensor | None, Tensor]] = {}
    obstacles: list[str] = []
    written: list[Tensor] = []

    def keep(layer: Layer) -> None:
        call = layer.attention
        obstacles.append(_obstacle(layer, call))
        # The mask is kept beside, so that its id stays its own.
        _, allowed = seen.setdefault(_same_mask(call), (call.mask, call.allowed()))
        added = None
        if written and not torch.equal(layer.resid_pre, written[0].to(layer.resid_pre.device)):
            added = layer.resid_pre - written[0].to(layer.resid_pre.device)
        written[:] = [layer.resid_post]
        kept = {site: site_of(layer, site) for site in sites if site != "resid_pre"}
        key, value = own_storage(call.key), own_storage(call.value)
        layers.append(Kept(layer.resid_pre, key, value, allowed, layer.arguments, added, kept))

    edits = subject.active_edits
    with tracing(subject, keep):
        subject.forward(arguments)
    last = last_positions(ids, mask)
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    # What edits do to some rows of some variants is theirs to know: they act in whole forwards.
    obstacle = "it is edited" if edits else next(filter(None, obstacles), "")
    return Recording(subject, arguments, real, last, layers, at_last(written[0], last), obstacle, edits)


def site_of(layer: Layer, site: str) -> Tensor:
    return layer.z if site == "z" else layer.written(site)


def _same_mask(call: AttentionCall) -> Any:
    """Layers with the same mask object share one `allowed`."""
    return id(call.mask) if call.mask is not None else (call.causal, call.query.device)


def _obstacle(layer: Layer, call: AttentionCall) -> str:
    """Why a layer cannot be replayed on some of its rows, "" where nothing is known against it."""
    tensors = [name for name, value in layer.arguments.items() if isinstance(value, Tensor)]
    strange = set(tensors) - {"hidden_states", "attention_mask", *_PER_POSITION}
    if strange:
        return f"its layers take {', '.join(sorted(strange))}"
    if layer.resid_pre.ndim != 3:
        return "its residual stream has more than three axes"
    if call.bias is not None or (call.mask is not None and call.mask.dtype != torch.bool):
        return "its attention adds a bias to the scores"
    return ""


def at_last(tensor: Tensor, last: Int[Tensor, " b"]) -> Tensor:
    """[b, p, ...] -> [b, ...] at each example's last real position."""
    return tensor[torch.arange(len(tensor), device=tensor.device), last.to(tensor.device)]


@dataclass(frozen=True, eq=False)
class Cut:
    """Attention from `target` rows to `source` columns (Bool[b, p] each) is removed before the softmax.

    donor: the same layer of another forward, whose keys and values those rows read there instead.
    """

    target: Bool[Tensor, "b p"]
    source: Bool[Tensor, "b p"]
    donor: Kept | None = None


@dataclass(frozen=True, eq=False)
class Put:
    """`values` (broadcast to [b, p, ...]) put into a site at `positions`; of z, into `heads` alone (None: all)."""

    site: str
    positions: Bool[Tensor, "b p"]
    values: Tensor
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require_writable(self.site, "patch")

    def into(self, tensor: Tensor, rows: Rows) -> None:
        """Overwrite `tensor` [b, s, ...], the site at `rows`, in place."""
        where, shape = rows.take(self.positions.to(tensor.device)), tensor.shape
        values = rows.take(self.values.expand(*rows.chosen.shape, *shape[2:]).to(tensor.device)).to(tensor.dtype)
        where = where.reshape(*where.shape, *[1] * (tensor.ndim - 2))
        heads = slice(None) if self.heads is None else torch.tensor(self.heads)
        if self.site == "z":
            tensor[:, :, heads] = torch.where(where, values[:, :, heads], tensor[:, :, heads])
        else:
            tensor.copy_(torch.where(where, values, tensor))


@dataclass(frozen=True, eq=False)
class Hear:
    """A head's query, key or value (part "q", "k", "v") at `positions` is `values` [b, s, d_head], those of rows `at`.

    Of a head alone, also where heads share keys and values.
    """

    part: str
    head: int
    positions: Bool[Tensor, "b p"]
    at: Rows
    values: Tensor

    def __post_init__(self) -> None:
        if self.part not in ("q", "k", "v"):
            raise UserError(f"a head hears no {self.part!r}: 'q', 'k' or 'v'")

    def into(self, tensor: Tensor, rows: Rows) -> None:
        """Overwrite this head's part of `tensor` [b, h, s, d_head], the layer's at `rows`, in place."""
        b, p = self.positions.shape
        index = self.at.index.to(tensor.device)[..., None].expand(*self.at.index.shape, tensor.shape[-1])
        everywhere = tensor.new_zeros(b, p, tensor.shape[-1]).scatter(1, index, self.values.to(tensor))
        where = rows.take(self.positions.to(tensor.device))[..., None]
        tensor[:, self.head] = torch.where(where, rows.take(everywhere), tensor[:, self.head])


Change = Cut | Put | Hear
Variant = Mapping[int, Sequence[Change]]  # layer -> its changes


@dataclass(frozen=True, eq=False)
class Rows:
    """The positions that are computed, padded to one number: index Int[b, s], real Bool[b, s].

    last: which of the s rows is the last position, Int[b]. chosen: the same positions as Bool[b, p].
    """

    index: Int[Tensor, "b s"]
    real: Bool[Tensor, "b s"]
    last: Int[Tensor, " b"]
    chosen: Bool[Tensor, "b p"]

    def take(self, tensor: Tensor) -> Tensor:
        """[b or 1, p, ...] -> [b, s, ...]."""
        index = self.index.to(tensor.device)
        tensor = tensor.expand(len(index), *tensor.shape[1:])
        return tensor[torch.arange(len(index), device=tensor.device)[:, None], index]


def reached(recording: Recording, seeds: Bool[Tensor, "b p"]) -> Rows:
    """The rows that a change at `seeds` reaches and that the last position can see.

    A fixpoint over the union of the layers' masks: for causal ones the suffix from the first seed on; a bidirectional
    image block moves it back.
    """
    device = recording.mask.device
    touched = _closure(seeds.to(device), recording.sees)
    chosen = (touched & recording.useful & recording.mask) | recording.final
    if anatomy.counts_from_cache(recording.subject.layers):
        chosen[:, int(chosen.any(0).int().argmax()) :] = True  # these layers count the positions before the rows
    return rows_of(chosen, recording.last.to(device))


def parted(base: Recording, donor: Recording) -> Rows:
    """The rows at which two runs of one layout differ, in any layer, and what they reach."""
    pairs = zip(base.layers, donor.layers, strict=True)
    differ = [(ours.resid_pre != theirs.resid_pre).any(-1).to(base.mask.device) for ours, theirs in pairs]
    return reached(base, torch.stack(differ).any(0))


def _closure(chosen: Tensor, sees: Tensor) -> Tensor:
    """All rows that see a chosen one, directly or through others."""
    while True:
        grown = chosen | (sees & chosen[:, None]).any(-1)
        if torch.equal(grown, chosen):
            return chosen
        chosen = grown


def rows_of(chosen: Bool[Tensor, "b p"], last: Int[Tensor, " b"]) -> Rows:
    """Chosen positions in order; shorter rows repeat the last position, whose copies nobody reads."""
    count = chosen.sum(1)
    order = torch.argsort((~chosen).int(), dim=1, stable=True)[:, : int(count.max())]
    real = torch.arange(order.shape[1], device=order.device) < count[:, None]
    before = torch.arange(chosen.shape[1], device=order.device) < last[:, None]
    return Rows(torch.where(real, order, last[:, None]), real, (chosen & before).sum(1), chosen)


def start_of(variant: Variant) -> int:
    """The first layer that a variant changes."""
    return min(variant)


# Called with (layer, site, tensor [variants, b, s, ...]) behind every change; for proofs.
Observer = Callable[[int, str, Tensor], Any]


@torch.no_grad()
def ride(
    recording: Recording, rows: Rows, variants: Sequence[Variant], observe: Observer | None = None
) -> Float[Tensor, "v b d"]:
    """The residual behind the last layer at the last position, for every variant.

    rows: `reached` from everything that the variants change.
    """
    keep_freed_memory()
    return _Stack(recording, rows, variants, observe).through_all()


@torch.no_grad()
def ride_one(
    recording: Recording, rows: Rows, variants: Sequence[Variant]
) -> tuple[Float[Tensor, "v b s d"], list[Float[Tensor, "v b s ..."]]]:
    """What the first layer that all variants change writes at the rows, and its changed sites, for every variant."""
    sites: list[Tensor] = []
    stack = _Stack(recording, rows, variants, lambda _, site, tensor: sites.append(tensor))
    stack.through(start_of(variants[0]))
    places = torch.tensor(stack.places)
    return stack.hidden[places], [site[places] for site in sites]


@torch.no_grad()
def ride_each(
    recording: Recording, rows: Rows, variant: Variant, written: Sequence[Tensor], site: str
) -> list[Float[Tensor, "b s ..."]]:
    """A site at the rows of every layer from the first change on, each layer replayed alone.

    written: what each layer of the edited forward wrote, [b, p, d]: the next one enters with it.
    """
    found: list[Tensor] = []

    def keep(_: int, name: str, tensor: Tensor) -> None:
        if name == site:
            found.append(tensor[0])

    stack = _Stack(recording, rows, [variant], keep, (site,))
    for index in range(start_of(variant), len(written)):
        stack.through(index)
        stack.hidden = rows.take(written[index])[None]
    return found


@torch.enable_grad()
def ride_with_gradient(
    recording: Recording, rows: Rows, variant: Variant, sites: Collection[str]
) -> tuple[Float[Tensor, "b d"], dict[str, list[Tensor]]]:
    """The same of one variant with its graph, and the sites [1, b, s, ...] of every layer from its first change on.

    What the variant puts should ask for a gradient: else there is no graph.
    """
    found: dict[str, list[Tensor]] = {site: [] for site in sites}

    def keep(_: int, site: str, tensor: Tensor) -> None:
        if site in found:
            found[site].append(tensor)

    return _Stack(recording, rows, [variant], keep, sites).through_all()[0], found


class _Stack:
    """Variants at one layer: hidden [r, b, s, d], a row for each history of changes so far.

    Variants with the same changes share a row until they part. places: the row of each variant, None while it is clean.
    """

    def __init__(
        self,
        recording: Recording,
        rows: Rows,
        variants: Sequence[Variant],
        observe: Observer | None,
        sites: Collection[str] = (),
    ) -> None:
        self.recording, self.rows, self.variants, self.observe = recording, rows, variants, observe
        self.sites = sites  # observed in every layer, changed or not
        self.places: list[int | None] = [None] * len(variants)
        self.hidden = torch.zeros(0)
        self.visible: row_attention.Visible = {}

    def through_all(self) -> Float[Tensor, "v b d"]:
        """The residual behind the last layer at the last position, for every variant."""
        for index in range(len(self.recording.layers)):
            self.through(index)
        last = torch.arange(len(self.rows.index)), self.rows.last.to(self.hidden.device)
        return self.hidden[torch.tensor(self.places)][:, *last]

    def through(self, index: int) -> None:
        """Fork what parts here, then compute one layer of all that differ from the clean pass."""
        kept = self.recording.layers[index]
        parents, changes = self._fork(index)
        if not parents:
            return
        self.hidden = self._forked(kept, parents)
        self._write("resid_pre", index, self.hidden, changes)
        self.hidden = self._layer(index, kept, changes)

    def _fork(self, index: int) -> tuple[list[int | None], list[tuple[int, Change]]]:
        """The row that each row of this layer comes from (None: the clean pass), and (row, change) in this layer."""
        found: dict[tuple[int | None, tuple[int, ...] | None], int] = {}
        changes: list[tuple[int, Change]] = []
        for v, variant in enumerate(self.variants):
            here, parent = variant.get(index), self.places[v]
            if here is None and parent is None:
                continue
            history = parent, None if here is None else tuple(map(id, here))
            if history not in found:
                changes += [(len(found), change) for change in here or ()]
            self.places[v] = found.setdefault(history, len(found))
        return [parent for parent, _ in found], changes

    def _forked(self, kept: Kept, parents: list[int | None]) -> Tensor:
        """The residual that enters the layer: of each parent, or the clean one."""
        hidden = self.hidden.to(kept.resid_pre.device)
        if len(hidden) and kept.added is not None:
            hidden = hidden + self.rows.take(kept.added)
        if parents == list(range(len(hidden))):
            return hidden
        clean = self.rows.take(kept.resid_pre)
        return torch.stack([clean if parent is None else hidden[parent] for parent in parents])

    def _layer(self, index: int, kept: Kept, changes: list[tuple[int, Change]]) -> Tensor:
        layer, shape = self.recording.subject.layers[index], self.hidden.shape
        attention = anatomy.attention_of(layer)

        def attend(call: AttentionCall) -> Tensor | None:
            if call.module is not attention:
                return None
            hears = [(v, c) for v, c in changes if isinstance(c, Hear)]
            call, key, value = self._heard(call, kept, hears) if hears else (call, kept.key, kept.value)
            cuts = [(v, c) for v, c in changes if isinstance(c, Cut)]
            z = row_attention.attend(call, kept, key, value, self.rows, cuts, self.visible)
            self._write("z", index, z, changes)
            return z.flatten(0, 1)

        def writing(site: str) -> Rewrite:
            def change(output: Tensor) -> Tensor:
                changed = output.reshape(shape).clone()
                self._write(site, index, changed, changes)
                return changed.reshape(output.shape)

            return change

        with ExitStack() as stack:
            put = {c.site for _, c in changes if isinstance(c, Put)}
            for site in (put | set(self.sites)) & {"attn_out", "mlp_out"}:
                rewrite_output(stack, layer, site, writing(site))
            stack.enter_context(replaying(attend))
            flat = self.hidden.flatten(0, 1)
            return first(layer(**self._arguments(kept.arguments) | {"hidden_states": flat})).reshape(shape)

    def _write(self, site: str, index: int, tensor: Tensor, changes: list[tuple[int, Change]]) -> None:
        """Put values into `tensor` [v, b, s, ...], in place."""
        puts = [(v, c) for v, c in changes if isinstance(c, Put) and c.site == site]
        for v, put in puts:
            put.into(tensor[v], self.rows)
        if self.observe is not None and (puts or site in self.sites or (site == "z" and changes)):
            self.observe(index, site, tensor)

    def _arguments(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        return arguments_at(self.recording, self.rows, recorded, len(self.hidden))

    def _heard(
        self, call: AttentionCall, kept: Kept, hears: list[tuple[int, Hear]]
    ) -> tuple[AttentionCall, Tensor, Tensor]:
        """The call with what some heads hear, and the clean keys and values with as many heads as its own."""
        edited = _hearing(call, hears, self.rows)
        groups = edited.key.shape[1] // kept.key.shape[1]
        return edited, kept.key.repeat_interleave(groups, 1), kept.value.repeat_interleave(groups, 1)


def _hearing(call: AttentionCall, hears: Sequence[tuple[int, Hear]], rows: Rows) -> AttentionCall:
    """The call [v·b, ...] with what some heads of some variants hear; keys and values by query head where need be."""
    groups = 1 if all(c.part == "q" for _, c in hears) else call.query.shape[1] // call.key.shape[1]
    query, key, value = call.query.clone(), *(t.repeat_interleave(groups, 1) for t in (call.key, call.value))
    parts = {"q": query, "k": key, "v": value}
    for v, hear in hears:
        hear.into(parts[hear.part].unflatten(0, (-1, len(rows.index)))[v], rows)
    return call.edited(query=query, key=key, value=value)


def arguments_at(recording: Recording, rows: Rows, recorded: Mapping[str, Any], n: int) -> dict[str, Any]:
    """A recorded call's arguments at the rows, once for each of `n` variants."""

    def at_rows(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(at_rows(one) for one in value)
        taken = rows.take(value)
        return taken.repeat(n, *[1] * (taken.ndim - 1))

    made = dict(recorded) | {"attention_mask": None}
    for name in _PER_POSITION:
        if recorded.get(name) is not None:
            made[name] = at_rows(recorded[name])
    if anatomy.counts_from_cache(recording.subject.layers):
        made["past_key_values"] = _cache_of_length(int(rows.index[0, 0]))
    return made


def _cache_of_length(length: int) -> Any:
    """What a layer may ask of a cache that holds the positions before the rows and keeps nothing."""
    return SimpleNamespace(
        get_seq_length=lambda *_: length, update=lambda key, value, *_: (key, value), is_compileable=False
    )


@torch.no_grad()
def whole(
    recording: Recording, variant: Variant, on_layer: Callable[[Layer], Any] | None = None
) -> Float[Tensor, "b d"]:
    """The same as `ride`, the slow way: a whole forward with the variant's changes, watched by `on_layer`."""
    rows = rows_of(torch.ones_like(recording.mask), recording.last)
    puts: dict[tuple[int, str], list[Put]] = {}
    for index, changes in variant.items():
        for change in changes:
            if isinstance(change, Put):
                puts.setdefault((index, change.site), []).append(change)
    last: list[Tensor] = []

    def keep(layer: Layer) -> None:
        if on_layer is not None:
            on_layer(layer)
        if layer.index == len(recording.layers) - 1:
            last.append(at_last(layer.resid_post, recording.last))

    edits = {index: partial(_attending, changes, rows) for index, changes in variant.items()}
    rewrites = {place: _putting(some, rows) for place, some in puts.items()}
    with tracing(recording.subject, keep, edits, rewrites):
        recording.subject.forward(recording.inputs)
    return last[0]


def _attending(changes: Sequence[Change], rows: Rows, call: AttentionCall) -> AttentionCall:
    """The call with what heads hear instead, and with edges cut."""
    hears = [(0, change) for change in changes if isinstance(change, Hear)]
    cuts = [change for change in changes if isinstance(change, Cut)]
    call = _hearing(call, hears, rows) if hears else call
    return _cut(call, cuts) if cuts else call


def _cut(call: AttentionCall, cuts: Sequence[Cut]) -> AttentionCall:
    allowed, key, value, lent = call.allowed(), [call.key], [call.value], []
    for cut in cuts:
        edges = (cut.target[:, None, :, None] & cut.source[:, None, None]).to(allowed.device)
        if cut.donor is not None:
            key.append(cut.donor.key)
            value.append(cut.donor.value)
            lent.append(allowed & edges)
        allowed = allowed & ~edges
    return call.edited(key=torch.cat(key, 2), value=torch.cat(value, 2), mask=torch.cat([allowed, *lent], -1))


def _putting(puts: Sequence[Put], rows: Rows) -> Rewrite:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        shaped = changed if puts[0].site == "z" else changed.reshape(*rows.chosen.shape, -1)
        for put in puts:
            put.into(shaped, rows)
        return shaped.reshape(changed.shape)

    return change
