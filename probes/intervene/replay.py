"""Layers replayed: one clean forward is recorded, and variants of it go stacked through the layers that they change.

A variant is a set of interventions by layer. It forks from the clean residual at its first changed layer; only the
positions that the change can reach on the way to the last one are computed; they read the clean keys and values of the
other positions, which all variants share. A layer whose mixer is no attention, or stands beside one, has a state of all
earlier rows: it runs on all of them, the others as they were. Exact: nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..model import anatomy
from ..model.attention import AttentionCall, replaying
from ..model.memory import keep_freed_memory
from ..observe.tracing import first, rewrite_output
from ..sites import SITES
from . import replay_attention
from .interventions import CALL, EDGES, QKV, Change, Variant
from .layer_parts import arguments_at, arguments_of_all, with_changed_qkv
from .positions import Positions
from .recording import LayerRecord, Recording

# Called with (layer, site, tensor [variants, b, s, ...]) behind every change; for proofs.
Observer = Callable[[int, str, Tensor], Any]
# Sites that are what a module inside of the block reads or writes.
IN_MODULES = {name for name, row in SITES.items() if row.in_module and row.reads[1] != "block"}
# An intervention of one layer and the row of the stack that it changes.
RowChange = tuple[int, Change]


@torch.no_grad()
def replay(
    recording: Recording, where: Positions, variants: Sequence[Variant], observe: Observer | None = None
) -> Float[Tensor, "v b d"]:
    """The residual behind the last layer at the last position, for every variant.

    where: `affected_positions` of everything that the variants change.
    """
    keep_freed_memory()
    return _Replay(recording, where, variants, observe).run()


@torch.no_grad()
def replay_at(
    recording: Recording, where: Positions, variants: Sequence[Variant], places: Int[Tensor, "b n"]
) -> Float[Tensor, "v b n d"]:
    """The same at some positions of each example, all of them among `where`."""
    keep_freed_memory()
    return _Replay(recording, where, variants, None).run_at(where.rows_of(places))


@torch.no_grad()
def replay_first_layer(
    recording: Recording, where: Positions, variants: Sequence[Variant]
) -> tuple[Float[Tensor, "v b s d"], list[Float[Tensor, "v b s ..."]]]:
    """What the first layer that all variants change writes at the rows, and its changed sites, for every variant."""
    sites: list[Tensor] = []
    stack = _Replay(recording, where, variants, lambda _, site, tensor: sites.append(tensor))
    stack.through(first_layer(variants[0]))
    rows = torch.tensor(stack.row_of_variant)
    return stack.hidden[rows], [site[rows] for site in sites]


@torch.no_grad()
def replay_each_layer(
    recording: Recording, where: Positions, variant: Variant, written: Sequence[Tensor], site: str
) -> list[Float[Tensor, "b s ..."]]:
    """A site at the rows of every layer from the first change on, each layer replayed alone.

    written: what each layer of the edited forward wrote, [b, p, d]: the next one enters with it.
    """
    tensors: list[Tensor] = []

    def keep(_: int, name: str, tensor: Tensor) -> None:
        if name == site:
            tensors.append(tensor[0])

    stack = _Replay(recording, where, [variant], keep, (site,))
    for index in range(first_layer(variant), len(written)):
        stack.through(index)
        stack.hidden = where.take(written[index])[None]
    return tensors


@torch.enable_grad()
def replay_with_gradient(
    recording: Recording, where: Positions, variant: Variant, sites: Collection[str]
) -> tuple[Float[Tensor, "b d"], dict[str, list[Tensor]]]:
    """The same of one variant with its graph, and the sites [1, b, s, ...] of every layer from its first change on.

    What the variant puts should ask for a gradient: else there is no graph.
    """
    tensors: dict[str, list[Tensor]] = {site: [] for site in sites}

    def keep(_: int, site: str, tensor: Tensor) -> None:
        if site in tensors:
            tensors[site].append(tensor)

    return _Replay(recording, where, [variant], keep, sites).run()[0], tensors


@torch.enable_grad()
def replay_stacked_with_gradient(
    recording: Recording, where: Positions, variants: Sequence[Variant]
) -> Float[Tensor, "v b d"]:
    """`replay` of several variants with their graph."""
    return _Replay(recording, where, variants, None).run()


def first_layer(variant: Variant) -> int:
    """The first layer that a variant changes."""
    return min(variant)


def require_sweepable(recording: Recording, layer: int, site: str) -> None:
    """UserError: a site that this layer does not have, with the reason."""
    if site in SITES or site in (EDGES, CALL):
        recording.subject.decoder.require(layer, SITES[site if site in SITES else "pattern"])


class _Replay:
    """Variants at one layer: hidden [r, b, s, d], a row for each history of changes so far.

    Variants with the same changes share a row until they part. row_of_variant: None while a variant is clean.
    """

    def __init__(
        self,
        recording: Recording,
        where: Positions,
        variants: Sequence[Variant],
        observe: Observer | None,
        sites: Collection[str] = (),
    ) -> None:
        self.recording, self.where, self.variants, self.observe = recording, where, variants, observe
        self.sites = sites  # observed in every layer, changed or not
        self.row_of_variant: list[int | None] = [None] * len(variants)
        self.hidden = self.entering = torch.zeros(0)  # at the rows; at all that the layer runs on
        self.visible: replay_attention.Visible = {}

    def run(self) -> Float[Tensor, "v b d"]:
        """The residual behind the last layer at the last position, for every variant."""
        return self.run_at(self.where.last[:, None])[:, :, 0]

    def run_at(self, rows: Int[Tensor, "b n"]) -> Float[Tensor, "v b n d"]:
        """The same at some of the rows."""
        for index in range(len(self.recording.layers)):
            self.through(index)
        rows = rows.to(self.hidden.device)
        of_example = torch.arange(len(rows), device=rows.device)[:, None]
        return self.hidden[torch.tensor(self.row_of_variant)][:, of_example, rows]

    def through(self, index: int) -> None:
        """Fork what parts here, then compute one layer of all that differ from the clean pass."""
        parents, changes = self._fork(index)
        if not parents:
            return
        self.hidden = self._forked(self.recording.layers[index], parents)
        self._change("resid_pre", index, changes, self.hidden)
        self.hidden = self._layer(index, changes)

    def _fork(self, index: int) -> tuple[list[int | None], list[RowChange]]:
        """The row that each row of this layer comes from (None: the clean pass), and the changes in this layer."""
        row_of: dict[tuple[int | None, tuple[int, ...] | None], int] = {}
        changes: list[RowChange] = []
        for v, variant in enumerate(self.variants):
            here, parent = variant.get(index), self.row_of_variant[v]
            if here is None and parent is None:
                continue
            history = parent, None if here is None else tuple(map(id, here))
            if history not in row_of:
                changes += [(len(row_of), change) for change in here or ()]
            self.row_of_variant[v] = row_of.setdefault(history, len(row_of))
        return [parent for parent, _ in row_of], changes

    def _forked(self, record: LayerRecord, parents: list[int | None]) -> Tensor:
        """The residual that enters the layer: of each parent, or the clean one."""
        hidden = self.hidden.to(record.resid_pre.device)
        if len(hidden) and record.added is not None:
            hidden = hidden + self.where.take(record.added)
        if parents == list(range(len(hidden))):
            return hidden
        clean = self.where.take(record.resid_pre)
        return torch.stack([clean if parent is None else hidden[parent] for parent in parents])

    def _layer(self, index: int, changes: list[RowChange]) -> Tensor:
        layer, record = self.recording.subject.layers[index], self.recording.layers[index]
        self.entering = self._on_all_rows(record, self.hidden) if record.whole else self.hidden
        with ExitStack() as stack:
            for site in self._sites_in(record, changes):
                rewrite_output(stack, layer, site, partial(self._rewritten, site, index, changes))
            if any(change.site == "resid_mid" for _, change in changes):  # behind what attn_out is made
                rewrite_output(stack, layer, "attn_out", partial(self._through_mid, index, changes))
            stack.enter_context(replaying(partial(self._attend, index, changes)))
            arguments = self._arguments(record) | {"hidden_states": self.entering.flatten(0, 1)}
            leaving = first(layer(**arguments)).reshape(self.entering.shape)
        leaving = self._rewritten("resid_post", index, changes, leaving)
        return self.where.take_each(leaving) if record.whole else leaving

    def _on_all_rows(self, record: LayerRecord, hidden: Tensor) -> Float[Tensor, "r b p d"]:
        """The recorded residual that enters a layer, with the rows of every variant in it."""
        return self.where.put_each(hidden, record.resid_pre.to(hidden).repeat(len(hidden), 1, 1, 1))

    def _sites_in(self, record: LayerRecord, changes: list[RowChange]) -> set[str]:
        """Those inside of the layer's modules that are changed or observed."""
        observed = {"z"} if changes and self.observe is not None else set()
        sites = {*self.sites, *observed, *(change.site for _, change in changes)}.intersection(IN_MODULES)
        return {site for site in sites if record.attends or not SITES[site].of_attention}

    def _arguments(self, record: LayerRecord) -> dict[str, Any]:
        """What the layer is called with beside the residual."""
        if record.whole:
            return arguments_of_all(self.recording, record.arguments, len(self.hidden))
        return arguments_at(self.recording, self.where, record.arguments, len(self.hidden))

    def _attend(self, index: int, changes: list[RowChange], call: AttentionCall) -> Tensor | None:
        """z of the layer's own attention at the rows, None for other attention in it."""
        record = self.recording.layers[index]
        if call.module is not anatomy.attention_of(self.recording.subject.layers[index]):
            return None
        key, value, rows = record.key, record.value, self.recording.everywhere if record.whole else self.where
        if reading := [(row, c) for row, c in changes if c.site in QKV.values()]:
            b = len(rows.index)
            call = with_changed_qkv(call, reading, b, lambda change, tensor: change.apply(tensor, rows))
            groups = call.key.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        knockouts: Any = [(row, c) for row, c in changes if c.site == EDGES]
        edits: Any = [(row, c) for row, c in changes if c.site == CALL]
        attend = replay_attention.attend_edited if edits else replay_attention.attend
        z = attend(call, record, key, value, rows, [*knockouts, *edits], self.visible)
        self._change_at_rows("attn_z", index, changes, z)
        return z.flatten(0, 1)

    def _rewritten(self, site: str, index: int, changes: list[RowChange], tensor: Tensor) -> Tensor:
        """The same as `_change_at_rows` on a copy of a module's tensor, folded as the module has it."""
        observed = site == "z" and self.observe is not None
        if site not in self.sites and not observed and all(change.site != site for _, change in changes):
            return tensor
        heads = [self.recording.subject.decoder.heads(index)] if site == "z" else []
        unfolded = tensor.reshape(*self.entering.shape[:-1], *heads, -1).clone()
        self._change_at_rows(site, index, changes, unfolded)
        return unfolded.reshape(tensor.shape)

    def _through_mid(self, index: int, changes: list[RowChange], written: Tensor) -> Tensor:
        """What the attention has to write for the residual behind it to be what changes of resid_mid make of it."""
        layer = self.recording.subject.layers[index]
        gain = anatomy.gain(layer, "attn_out")
        mid = anatomy.times(self.entering, anatomy.carries(layer)[0]) + written.reshape(self.entering.shape) * gain
        moved = self._rewritten("resid_mid", index, changes, mid) - mid
        return written + (moved / gain).reshape(written.shape)

    def _change_at_rows(self, site: str, index: int, changes: list[RowChange], tensor: Tensor) -> None:
        """The same as `_change` on a tensor over all rows that the layer runs on, in place."""
        if not self.recording.layers[index].whole:
            self._change(site, index, changes, tensor)
            return
        rows = self.where.take_each(tensor)
        self._change(site, index, changes, rows)
        self.where.put_each(rows, tensor)

    def _change(self, site: str, index: int, changes: list[RowChange], tensor: Tensor) -> None:
        """Let the changes of a site act on its tensor [r, b, s, ...], in place."""
        here: list[tuple[int, Any]] = [(row, change) for row, change in changes if change.site == site]
        for row, change in here:
            tensor[row] = change.apply(tensor[row], self.where)
        if self.observe is not None and (here or site in self.sites or (site == "z" and changes)):
            self.observe(index, site, tensor)
