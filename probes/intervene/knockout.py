"""Attention knockout: edges removed layer window by layer window, or read from another run instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from ...data.errors import UserError
from .interventions import Knockout
from .measures import Measure
from .positions import affected_positions, positions_of
from .proofs import verify_edit
from .readout import BUDGET, clean_values, read_variants
from .recording import Recording
from .sweep import Inputs, Sweep, recorded, same_layout

if TYPE_CHECKING:
    from ..model.subject import Subject


@torch.no_grad()
def knockout_sweep(
    subject: Subject,
    inputs: Inputs,
    source: Bool[Tensor, "... b p"],
    target: Bool[Tensor, "... b p"],
    *,
    window: int,
    measure: Measure,
    replace: Inputs | None = None,
    centres: Sequence[int] | None = None,
    budget: int = BUDGET,
) -> Sweep:
    """Attention from `target` rows to `source` columns removed, layer window by layer window (arXiv 2411.18620).

    source, target: Bool[b, p], or [f, b, p] for several flows at once. window: layers range(max(0, l − ⌊w/2⌋),
    min(L, l + ⌈w/2⌉)) around each l. replace: inputs of the same layout whose keys and values are read at the cut
    edges instead (resampling). centres: windows around these layers alone. Returns values [layer, b] (or
    [f, layer, b]), NaN where no layer of the window has attention; clean [b], width [layer], of those with attention.
    UserError: a flow without source, target or an edge between them; a row left without keys; other lengths in
    `replace`; a measure of the wrong shape. InterventionError: an edit without effect.
    """
    base = recorded(subject, inputs)
    donor = None if replace is None else recorded(subject, replace)
    if donor is not None:
        same_layout(base, donor)
    if window < 1:
        raise UserError(f"window {window}: at least one layer is needed")
    several = source.ndim == 3 or target.ndim == 3
    flows = list(_flows(base, source, target))
    deepest = [check_edges(base, t, s, empties=donor is None) for t, s in flows]
    layers = range(len(base.layers))
    middles = layers if centres is None else centres
    windows = [range(max(0, i - window // 2), min(len(layers), i + (window + 1) // 2)) for i in middles]
    attending = subject.decoder.attending
    spans = [[i for i in span if i in attending] for span in windows]
    cut = [bool(span) for span in spans]
    knockouts = [
        {i: (Knockout(t, s, None if donor is None else donor.layers[i]),) for i in attending} for t, s in flows
    ]
    where = affected_positions(base, torch.stack([t for t, _ in flows]).any(0))
    notes = ()
    for layer in sorted(set(deepest)):
        notes = verify_edit(
            base, where, [{layer: k[layer]} for k, at in zip(knockouts, deepest, strict=True) if at == layer]
        )
    variants = [{i: knockout[i] for i in span} for knockout in knockouts for span in spans if span]
    clean = clean_values(base, measure)
    values = clean.new_full((len(flows), len(spans), *clean.shape), torch.nan)
    if variants:
        values[:, cut] = read_variants(base, where, variants, measure, budget).unflatten(0, (len(flows), sum(cut)))
    width = torch.tensor([len(span) for span in spans])
    axes = ("flow", "layer", "example") if several else ("layer", "example")
    return Sweep(values if several else values[0], clean, width, notes=notes, axes=axes)


def _flows(base: Recording, source: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(target, source) of every flow; ValueError for masks that do not belong to the batch."""
    for name, mask in (("source", source), ("target", target)):
        if mask.dtype != torch.bool or mask.shape[-2:] != base.mask.shape:
            raise ValueError(f"{name}: Bool{list(base.mask.shape)} expected, got {mask.dtype} {list(mask.shape)}")
    device = base.mask.device
    source, target = (m.to(device)[None] if m.ndim == 2 else m.to(device) for m in (source, target))
    n = max(len(source), len(target))
    yield from zip(target.expand(n, -1, -1) & base.mask, source.expand(n, -1, -1) & base.mask, strict=True)


def check_edges(base: Recording, target: Tensor, source: Tensor, *, empties: bool = True) -> int:
    """The last layer in which there is such an edge, in any example.

    UserError: an example without source or target, without an edge between them, or left with a row without keys.
    """
    deepest = 0
    for name, mask in (("source", source), ("target", target)):
        empty = (~mask.any(1)).nonzero()[:, 0].tolist()
        if empty:
            raise UserError(f"knockout: example {empty[0]} of the batch has no {name} position")
    rows, has_edge = positions_of(target, base.last), torch.zeros(len(target), dtype=torch.bool, device=target.device)
    attending = [(i, record) for i, record in enumerate(base.layers) if record.attends]
    for allowed, layer in {id(record.allowed): (record.allowed, i) for i, record in attending}.values():
        at_rows = rows.take(allowed.transpose(1, 2)).to(target.device) & rows.take(target)[:, :, None, None]
        edges = at_rows & source[:, None, None]
        here = edges.flatten(1).any(1)
        has_edge, deepest = has_edge | here, max(deepest, layer) if bool(here.any()) else deepest
        emptied = (at_rows.any(-1) & ~(at_rows & ~edges).any(-1)).flatten(1).any(1)
        if empties and bool(emptied.any()):
            raise UserError(
                f"knockout: in example {int(emptied.int().argmax())} of the batch a target row would have no key left"
            )
    if not bool(has_edge.all()):
        raise UserError(
            f"knockout: nothing to knock out in example {int((~has_edge).int().argmax())} of the batch: "
            "no target position may read a source position"
        )
    return deepest
