"""Sweeps of interventions over layers, heads and positions: exact, at the price of about one forward.

Each sweep makes variants of one clean forward (replay.py) and reads a measure of their logits at the last real
position. Before it returns, it proves that its edits take effect (proofs.py). In place of inputs, every sweep takes a
`Recording` of them (`record`), so that several sweeps share one clean pass. Inside an edit (`tracing`) the edited model
is swept, in whole forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..prompts.batch import Batch
from ..sites import PARTS, SITES, WRITABLE
from .acting import acting_positions
from .interventions import CALL, EDGES, Change, EditAttention, Variant, with_positions
from .measures import Measure
from .placing import require_place
from .positions import Positions, affected_positions
from .proofs import verify_edit
from .readout import BUDGET, clean_values, read_variants
from .recording import Recording, record
from .replay import require_sweepable

if TYPE_CHECKING:
    from ..model.subject import Subject

Inputs = Mapping[str, Any] | Batch | Recording
AXES = ("layer", "head", "position")


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """values: one number per variant and example; clean, donor: Float[b] without an edit.

    axes: the names of values' axes, such as ("layer", "head", "example"); a measure of m numbers has one more behind.
    clean is the run that is changed: of `causal_trace` the corrupted one.
    width: how many layers each window really has, Int[layer]. notes: what a reader must know of how it was computed.
    """

    values: Tensor
    clean: Float[Tensor, " b"]
    width: Tensor | None = None
    donor: Float[Tensor, " b"] | None = None
    notes: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()

    @property
    def effects(self) -> Float[Tensor, "b ..."]:
        """values − clean, examples first: what an analysis keeps."""
        return (self.values - self.clean).movedim(-1, 0)

    def __repr__(self) -> str:
        names = (*self.axes, *["number"] * (self.values.ndim - len(self.axes)))
        shape = " × ".join(f"{n} {name}s" for name, n in zip(names, self.values.shape, strict=False))
        notes = "".join(f"; {note}" for note in self.notes)
        return f"Sweep({shape}, {str(self.values.dtype).removeprefix('torch.')}{notes})"


@torch.no_grad()
def intervention_sweep(
    subject: Subject,
    inputs: Inputs,
    intervention: Change | Callable[[int], Change],
    *,
    measure: Measure,
    over: Collection[str] = ("layer",),
    layers: Sequence[int] | None = None,
    budget: int = BUDGET,
) -> Sweep:
    """An intervention in one layer after the other; `over` also in one head, in one position after the other.

        intervention_sweep(subject, batch, Add("resid_post", batch.final, direction), measure=measure)

    intervention: one for all layers, or a function from a layer to its own. over: "layer", and "head" (of z) and
    "position" at will. layers: these alone, not all. Returns values [layer(, head)(, position), b], NaN where an
    example has no such position, or a layer no attention to change; clean [b].
    UserError: an axis or a site that cannot be swept, an example without a position to change, an intervention that
    would change nothing anywhere. InterventionError: an edit without effect.
    """
    make: Any = intervention if callable(intervention) else lambda layer: intervention
    by_layer = {i: make(i) for i in (range(subject.n_layers) if layers is None else layers)}
    if layers is None:
        by_layer = {i: by_layer[i] for i in layers_with(subject, {change.site for change in by_layer.values()})}
    sites = {change.site for change in by_layer.values()} & {*WRITABLE}
    base = recorded(subject, inputs, () if isinstance(inputs, Recording) else sites)
    sweep = swept(base, by_layer, measure, over, budget)
    return in_all_layers(sweep, list(by_layer), subject.n_layers) if layers is None else sweep


@torch.no_grad()
def variant_sweep(
    base: Recording,
    variants: Sequence[Variant],
    positions: Bool[Tensor, "b p"],
    *,
    measure: Measure,
    budget: int = BUDGET,
) -> Sweep:
    """Any variants of a recorded run that change rows at `positions` alone; the first that has something to do is
    proved to do it.

    Returns values [variant, b], clean [b]. base: with the sites that are patched. UserError: a layer that does not
    exist, a site that cannot be replayed.
    """
    require_layers(base, {layer for variant in variants for layer in variant})
    for layer, change in ((i, c) for variant in variants for i, changes in variant.items() for c in changes):
        require_sweepable(base, layer, change.site)
    where = _rows(base, positions, [c for variant in variants for changes in variant.values() for c in changes])
    # What an edit of the attention does shows only while it runs.
    parts = ((i, v[i]) for v in variants for i in sorted(v) if not any(isinstance(c, EditAttention) for c in v[i]))
    acting = ({i: part} for i, part in parts if any(bool(acting_positions(base, i, c).any()) for c in part))
    proved = next(acting, None)
    notes = () if proved is None else verify_edit(base, where, [proved])
    values = read_variants(base, where, variants, measure, budget)
    return Sweep(values, clean_values(base, measure), notes=notes, axes=("variant", "example"))


def swept(
    base: Recording,
    by_layer: Mapping[int, Change],
    measure: Measure,
    over: Collection[str] = ("layer",),
    budget: int = BUDGET,
) -> Sweep:
    """`intervention_sweep` of a recorded run; the deepest layer in which there is something to do is proved."""
    require_layers(base, by_layer)
    one = _require_axes(base, by_layer, over)
    by_layer = _brought(base, by_layer)
    acting = {i: acting_positions(base, i, change) for i, change in by_layer.items()}
    chosen = _chosen(base, by_layer)
    columns = _columns(chosen) if "position" in over else [chosen]
    deepest = max(_somewhere(acting, base.mask), default=None)
    if deepest is None:
        raise UserError(f"{one.describe()}: it leaves everything as it is in every layer: nothing to patch or change")
    notes = verify_edit(base, _rows(base, chosen, [by_layer[deepest]]), [{deepest: (by_layer[deepest],)}])
    clean = clean_values(base, measure)
    values = [_values_at(base, by_layer, acting, column, clean, "head" in over, measure, budget) for column in columns]
    axes = tuple(axis for axis in AXES if axis in over)
    together = torch.stack(values, axes.index("position")) if "position" in over else values[0]
    return Sweep(together, clean, notes=notes, axes=(*axes, "example"))


def _require_axes(base: Recording, by_layer: Mapping[int, Change], over: Collection[str]) -> Change:
    """One of the interventions. UserError: no layer, or axes that cannot be swept with these."""
    if isinstance(over, str) or "layer" not in over or set(over) - {*AXES}:
        raise UserError(f"over {over!r}: 'layer', and 'head' or 'position' beside it")
    if not by_layer:
        raise UserError("layers: at least one is needed")
    for layer, change in by_layer.items():
        require_sweepable(base, layer, change.site)
        if "head" in over:
            require_place(change.site, (), "sweep")
            if not hasattr(change, "heads"):
                raise UserError(f"{change.describe()}: it cannot be swept over heads, since it has no field `heads`")
    return next(iter(by_layer.values()))


def _chosen(base: Recording, by_layer: Mapping[int, Change]) -> Bool[Tensor, "b p"]:
    """The real positions at which any of them acts. UserError: an example without one."""
    masks = [base.mask if c.positions is None else c.positions.to(base.mask.device) for c in by_layer.values()]
    chosen = torch.stack([mask.expand(base.mask.shape) for mask in masks]).any(0) & base.mask
    if empty := (~chosen.any(1)).nonzero()[:, 0].tolist():
        what = next(iter(by_layer.values())).describe()
        raise UserError(f"{what}: example {empty[0]} of the batch has no position to change")
    return chosen


def _columns(chosen: Bool[Tensor, "b p"]) -> list[Bool[Tensor, "b p"]]:
    """One position at a time."""
    return [chosen & (torch.arange(chosen.shape[1], device=chosen.device) == i) for i in range(chosen.shape[1])]


def _values_at(
    base: Recording,
    by_layer: Mapping[int, Any],
    acting: Mapping[int, Tensor],
    positions: Bool[Tensor, "b p"],
    clean: Tensor,
    by_head: bool,
    measure: Measure,
    budget: int,
) -> Float[Tensor, "layer ... b"]:
    """Values [layer(, head), b] of changes at these positions; NaN for examples without any.

    Layers and positions at which there is nothing to do, such as those before two prompts diverge, are not run.
    """
    heads = range(base.subject.n_heads) if by_head else [None]
    moved = _somewhere(acting, positions)
    values = clean.expand(len(by_layer), len(heads), *clean.shape).clone()
    there = {i: base.subject.decoder.heads(i) if by_head else 1 for i in by_layer}
    for row, i in enumerate(by_layer):
        values[row, there[i] :] = torch.nan
    if moved:
        where = torch.stack([acting[i] for i in moved]).any(0) & positions
        narrowed = {i: _narrowed(by_layer[i], where) for i in moved}
        variants = [{i: (_of_head(narrowed[i], head),)} for i in moved for head in heads[: there[i]]]
        read = read_variants(base, _rows(base, where, [by_layer[i] for i in moved]), variants, measure, budget)
        rows = torch.tensor([(list(by_layer).index(i), head) for i in moved for head in range(there[i])])
        values[rows[:, 0], rows[:, 1]] = read
    missing = ~positions.any(1).to(values.device)
    values = values.masked_fill(missing.reshape(-1, *[1] * (clean.ndim - 1)), torch.nan)
    return values if by_head else values[:, 0]


def _somewhere(acting: Mapping[int, Tensor], positions: Bool[Tensor, "b p"]) -> list[int]:
    """The layers in which there is something to do at these positions; a GPU is asked once."""
    there = torch.stack([where & positions for where in acting.values()]).flatten(1).any(1).tolist()
    return [i for i, anywhere in zip(acting, there, strict=True) if anywhere]


def _brought(base: Recording, by_layer: Mapping[int, Any]) -> dict[int, Any]:
    """The same with what they hold where it acts, masks beside the base's: brought there once, not at every use."""
    kept: dict[tuple[int, torch.device], Tensor] = {}

    def brought(value: Any, layer: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        device = base.mask.device if value.dtype == torch.bool else base.layers[layer].resid_pre.device
        if (id(value), device) not in kept:
            kept[id(value), device] = value.to(device)
        return kept[id(value), device]

    return {
        i: replace(change, **{one.name: brought(getattr(change, one.name), i) for one in fields(change)})
        for i, change in by_layer.items()
    }


def _rows(base: Recording, positions: Bool[Tensor, "b p"], changes: Sequence[Change]) -> Positions:
    """The rows that are computed: all where a change looks at all of them, else those that changes at these reach."""
    every = any(getattr(change, "every_row", False) for change in changes)
    return base.everywhere if every else affected_positions(base, positions)


def _narrowed(change: Any, where: Bool[Tensor, "b p"]) -> Any:
    """The same at those of its positions that lie in `where`."""
    positions = where if change.positions is None else where & change.positions.to(where.device)
    return with_positions(change, positions)


def _of_head(change: Any, head: int | None) -> Any:
    """The same in one head, or as it is."""
    return change if head is None else replace(change, heads=(head,))


def layers_with(subject: Subject, sites: Collection[str]) -> Sequence[int]:
    """All layers, but of the attention's sites those that have attention, and of a part those that add it."""
    inside = any(site in (CALL, EDGES) or SITES[site].of_attention for site in sites)
    layers = subject.decoder.attending if inside else range(subject.n_layers)
    parts = [SITES[site] for site in sites if site in PARTS]
    return [i for i in layers if all(subject.decoder.has(i, part) for part in parts)] or layers


def in_all_layers(sweep: Sweep, layers: Sequence[int], n: int) -> Sweep:
    """The same with NaN in the layers that were not swept."""
    if len(layers) == n:
        return sweep
    values = sweep.values.new_full((n, *sweep.values.shape[1:]), torch.nan)
    values[list(layers)] = sweep.values
    return replace(sweep, values=values)


def recorded(subject: Subject, inputs: Inputs, sites: Collection[str] = ()) -> Recording:
    """The inputs' recording, with these sites; a recording as it is. UserError: one that lacks a site."""
    if not isinstance(inputs, Recording):
        return record(subject, inputs, sites)
    if missing := [site for site in sites if not any(layer.holds(site) for layer in inputs.layers)]:
        raise UserError(f"the recording lacks {', '.join(missing)}: record(subject, inputs, sites)")
    return inputs


def require_layers(base: Recording, layers: Collection[int]) -> None:
    """UserError: a layer that does not exist."""
    if unknown := [layer for layer in layers if layer not in range(len(base.layers))]:
        raise UserError(f"no layer {unknown[0]} to change: {base.subject.name} has 0…{len(base.layers) - 1}")


def same_layout(base: Recording, donor: Recording) -> None:
    """UserError where the two runs' prompts have other lengths."""
    if base.mask.shape == donor.mask.shape and torch.equal(base.mask, donor.mask):
        return
    pairs = zip(base.mask.sum(1).tolist(), donor.mask.sum(1).tolist(), strict=False)
    off = next((f"example {i}: {a} and {b} tokens" for i, (a, b) in enumerate(pairs) if a != b), "other padding")
    raise UserError(f"the two runs' prompts differ in length ({off}): positions would not correspond")
