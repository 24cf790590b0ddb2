"""Interventions over all layers, heads and positions, exact, at the price of about one forward.

Each sweep makes variants of one clean forward (replay.py) and reads a measure of their logits at the last real
position. Before it returns, it proves that its edits take effect (`verify_edit`); whoever reads variants of their own
(`read_variants`) proves it beside. In place of inputs, every sweep takes a `Recording` of them (`record`), so that
several sweeps share one clean pass. Inside an edit (trace.py) the edited model is swept, in whole forwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..model import anatomy
from ..prompts.batch import Batch
from ..sites import WRITABLE, require_writable
from .measures import Measure
from .proofs import obstacle_of, verify_edit
from .replay import Change, Cut, Put, Recording, Rows, Variant, reached, record, ride, rows_of, start_of, whole

if TYPE_CHECKING:
    from ..model.subject import Subject

Inputs = Mapping[str, Any] | Batch | Recording
# Bytes that the variants of a sweep may take beside the clean pass.
BUDGET = 2**30
PATCHED = WRITABLE


@dataclass(frozen=True, eq=False)
class Sweep:
    """values: one number per variant and example (shape: see the sweep); clean, donor: Float[b] without an edit.

    width: how many layers each window really has, Int[layer]. notes: what a reader must know of how it was computed.
    """

    values: Tensor
    clean: Float[Tensor, " b"]
    width: Tensor | None = None
    donor: Float[Tensor, " b"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def effects(self) -> Float[Tensor, "b ..."]:
        """values − clean, examples first: what an analysis keeps."""
        return (self.values - self.clean).movedim(-1, 0)


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
    [f, layer, b]), clean [b], width [layer].
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
    spans = [range(max(0, i - window // 2), min(len(layers), i + (window + 1) // 2)) for i in middles]
    cuts = [{i: (Cut(t, s, None if donor is None else donor.layers[i]),) for i in layers} for t, s in flows]
    rows = reached(base, torch.stack([t for t, _ in flows]).any(0))
    notes = ()
    for layer in sorted(set(deepest)):
        notes = verify_edit(base, rows, [{layer: c[layer]} for c, at in zip(cuts, deepest, strict=True) if at == layer])
    variants = [{i: cut[i] for i in span} for cut in cuts for span in spans]
    values = read_variants(base, rows, variants, measure, budget)
    values = values.unflatten(0, (len(flows), len(spans)))
    width = torch.tensor([len(span) for span in spans])
    return Sweep(values if several else values[0], clean_values(base, measure), width, notes=notes)


@torch.no_grad()
def patch_sweep(
    subject: Subject,
    base: Inputs,
    donor: Inputs,
    site: str,
    *,
    positions: Bool[Tensor, "b p"] | str,
    measure: Measure,
    layers: Sequence[int] | None = None,
    budget: int = BUDGET,
) -> Sweep:
    """Activations of `donor` put into `base`, one place of the site at a time.

    site: "z" (each head), "resid_pre", "attn_out" or "mlp_out" (each layer). positions: Bool[b, p], patched together,
    or "each". Returns values [layer, head, b] for z and [layer, b] elsewhere; with "each" one more axis before b, NaN
    at padding; clean [b], donor [b]. layers: these alone, not all. UserError: an unknown site, prompts of other
    lengths, donors equal to the base, a measure of the wrong shape. InterventionError: an edit without effect.
    """
    require_writable(site, "patch")
    kept = recorded(subject, base, (site,))
    given = recorded(subject, donor, (site,))
    same_layout(kept, given)
    chosen = range(len(kept.layers)) if layers is None else layers
    values, notes = _put_sweep(kept, site, {i: given.layers[i].site(site) for i in chosen}, positions, measure, budget)
    return Sweep(values, clean_values(kept, measure), donor=clean_values(given, measure), notes=notes)


@torch.no_grad()
def ablation_sweep(
    subject: Subject,
    inputs: Inputs,
    site: str,
    *,
    positions: Bool[Tensor, "b p"] | str,
    measure: Measure,
    by: str = "zero",
    budget: int = BUDGET,
) -> Sweep:
    """Each head (site "z") or each layer's attention or MLP output replaced by zero or by its mean.

    by: "zero" (of attn_out or mlp_out: the layer's part is skipped) or "mean" (over the batch's real positions). To
    resample, patch with other inputs. Shapes and errors as in `patch_sweep`.
    """
    require_writable(site, "patch")
    kept = recorded(subject, inputs, (site,))
    if by not in ("zero", "mean"):
        raise UserError(f"ablation by {by!r}: 'zero' or 'mean' (to resample, use patch_sweep)")
    sites = {i: layer.site(site) for i, layer in enumerate(kept.layers)}
    means = {i: t[kept.mask.to(t.device)].mean(0)[None, None] for i, t in sites.items()}
    put = means if by == "mean" else {i: torch.zeros_like(mean) for i, mean in means.items()}
    values, notes = _put_sweep(kept, site, put, positions, measure, budget)
    return Sweep(values, clean_values(kept, measure), notes=notes)


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

    Returns values [variant, b], clean [b]. base: with the sites that are put. UserError: a layer that does not exist.
    """
    layers = range(len(base.layers))
    if unknown := {layer for variant in variants for layer in variant} - {*layers}:
        raise UserError(f"no layer {min(unknown)} to change: {base.subject.name} has 0…{layers[-1]}")
    rows = reached(base, positions)
    parts = ((i, variant[i]) for variant in variants for i in sorted(variant))
    proved = next(({i: part} for i, part in parts if any(_acts(base, i, change) for change in part)), None)
    notes = () if proved is None else verify_edit(base, rows, [proved])
    return Sweep(read_variants(base, rows, variants, measure, budget), clean_values(base, measure), notes=notes)


def _acts(base: Recording, layer: int, change: Change) -> bool:
    """Whether a change has something to do in a layer: an edge to cut, other values to put."""
    if isinstance(change, Cut):
        allowed = base.layers[layer].allowed
        edges = change.target[:, None, :, None] & change.source[:, None, None]
        return bool((allowed & edges.to(allowed.device)).any())
    if isinstance(change, Put):
        heads = slice(None) if change.heads is None else list(change.heads)
        where = change.positions.to(base.mask.device) & base.mask
        return bool((_differing(base, layer, change.site, change.values, heads) & where).any())
    return True


def causal_trace(
    subject: Subject,
    clean: Inputs,
    corrupt: Inputs,
    *,
    measure: Measure,
    layers: Sequence[int] | None = None,
    budget: int = BUDGET,
) -> Sweep:
    """One state at one position of the clean run restored into the corrupted run (arXiv 2202.05262).

    Returns values [layer, pos, b] (layer l restores state l, the residual that enters it), NaN at padding;
    clean: the corrupted run, donor: the clean one.
    """
    return patch_sweep(
        subject, corrupt, clean, "resid_pre", positions="each", measure=measure, layers=layers, budget=budget
    )


def recorded(subject: Subject, inputs: Inputs, sites: Collection[str] = ()) -> Recording:
    if not isinstance(inputs, Recording):
        return record(subject, inputs, sites)
    missing = [s for s in sites if s != "resid_pre" and s not in inputs.layers[0].sites]
    if missing:
        raise ValueError(f"the recording lacks {', '.join(missing)}: record(subject, inputs, sites)")
    return inputs


def same_layout(base: Recording, donor: Recording) -> None:
    """UserError where the two runs' prompts have other lengths."""
    if base.mask.shape == donor.mask.shape and torch.equal(base.mask, donor.mask):
        return
    pairs = zip(base.mask.sum(1).tolist(), donor.mask.sum(1).tolist(), strict=False)
    off = next((f"example {i}: {a} and {b} tokens" for i, (a, b) in enumerate(pairs) if a != b), "other padding")
    raise UserError(f"the two runs' prompts differ in length ({off}): positions would not correspond")


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
    rows, found = rows_of(target, base.last), torch.zeros(len(target), dtype=torch.bool, device=target.device)
    for allowed, layer in {id(kept.allowed): (kept.allowed, i) for i, kept in enumerate(base.layers)}.values():
        at_rows = rows.take(allowed.transpose(1, 2)).to(target.device) & rows.take(target)[:, :, None, None]
        edges = at_rows & source[:, None, None]
        there = edges.flatten(1).any(1)
        found, deepest = found | there, max(deepest, layer) if bool(there.any()) else deepest
        emptied = (at_rows.any(-1) & ~(at_rows & ~edges).any(-1)).flatten(1).any(1)
        if empties and bool(emptied.any()):
            raise UserError(
                f"knockout: in example {int(emptied.int().argmax())} of the batch a target row would have no key left"
            )
    if not bool(found.all()):
        raise UserError(
            f"knockout: nothing to knock out in example {int((~found).int().argmax())} of the batch: "
            "no target position may read a source position"
        )
    return deepest


def _put_sweep(
    base: Recording,
    site: str,
    values: dict[int, Tensor],
    positions: Bool[Tensor, "b p"] | str,
    measure: Measure,
    budget: int,
) -> tuple[Tensor, tuple[str, ...]]:
    """Values [layer(, head)(, pos), b] of putting `values` (by layer) into a site."""
    if isinstance(positions, str):
        if positions != "each":
            raise UserError(f"positions {positions!r}: a mask Bool[b, p], or 'each'")
        chosen = base.mask
        columns = [torch.zeros_like(chosen) for _ in range(chosen.shape[1])]
        for i, column in enumerate(columns):
            column[:, i] = chosen[:, i]
    else:
        columns = [positions.to(base.mask.device) & base.mask]
        empty = (~columns[0].any(1)).nonzero()[:, 0].tolist()
        if empty:
            raise UserError(f"patching: example {empty[0]} of the batch has no position to patch")
        chosen = columns[0]
    differing = {i: _differing(base, i, site, value) for i, value in values.items()}
    deepest = max((i for i, where in differing.items() if bool((where & chosen).any())), default=None)
    if deepest is None:
        raise UserError("patching: the donor's activations equal the base's: nothing to patch")
    notes = verify_edit(base, reached(base, chosen), [{deepest: (Put(site, chosen, values[deepest]),)}])
    clean = clean_values(base, measure)
    found = [_put_at(base, site, values, differing, column, clean, measure, budget) for column in columns]
    if not isinstance(positions, str):
        return found[0], notes
    axis = 2 if site == "z" else 1
    return torch.stack(found, axis), notes


def _differing(
    base: Recording, layer: int, site: str, values: Tensor, heads: slice | list[int] = slice(None)
) -> Bool[Tensor, "b p"]:
    """The positions at which the values (of z: of `heads`) are not the base's own."""
    own = base.layers[layer].site(site)
    return (values.to(own.device).expand(own.shape) != own)[:, :, heads].flatten(2).any(2).to(base.mask.device)


def _put_at(
    base: Recording,
    site: str,
    values: dict[int, Tensor],
    differing: dict[int, Tensor],
    positions: Tensor,
    clean: Tensor,
    measure: Measure,
    budget: int,
) -> Tensor:
    """[layer(, head), b] of one set of positions; NaN for examples without any.

    Layers and positions at which the values are the base's own, such as those before two prompts part, are not run.
    """
    heads = [(h,) for h in range(base.subject.n_heads)] if site == "z" else [None]
    moved = [i for i, where in differing.items() if bool((where & positions).any())]
    found = clean.expand(len(values), len(heads), *clean.shape).clone()
    if moved:
        where = torch.stack([differing[i] for i in moved]).any(0) & positions
        variants = [{i: (Put(site, where, values[i], h),)} for i in moved for h in heads]
        run = read_variants(base, reached(base, where), variants, measure, budget)
        found[[list(values).index(i) for i in moved]] = run.unflatten(0, (len(moved), len(heads)))
    found = found if site == "z" else found[:, 0]
    there = positions.any(1).to(found.device).reshape(*[1] * (2 if site == "z" else 1), -1)
    there = there.reshape(*there.shape, *[1] * (found.ndim - there.ndim))
    return found.masked_fill(~there, torch.nan)


def read_variants(
    base: Recording, rows: Rows, variants: Sequence[Variant], measure: Measure, budget: int
) -> Float[Tensor, "v b ..."]:
    """The measure of every variant, chunk by chunk within the budget."""
    if obstacle_of(base):
        return torch.cat([measured(base, whole(base, v)[None], measure, budget) for v in variants])
    order = sorted(range(len(variants)), key=lambda i: start_of(variants[i]))
    step = max(1, int(budget // bytes_per_variant(base, rows)))
    found = []
    for at in range(0, len(order), step):
        resid = ride(base, rows, [variants[i] for i in order[at : at + step]])
        found.append(measured(base, resid, measure, budget))
    return torch.cat(found)[torch.argsort(torch.tensor(order))]


def bytes_per_variant(base: Recording, rows: Rows) -> int:
    """An estimate of what one riding variant keeps alive in a layer."""
    subject, (b, s), p = base.subject, rows.index.shape, base.mask.shape[1]
    config = subject.text_config
    inner = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None) or 4 * subject.d_model
    item = torch.finfo(subject.dtype).bits // 8
    per_row = (12 * subject.d_model + 3 * inner) * item
    return b * s * (per_row + (p + s) * (3 * 4 * subject.n_heads + 6))


def measured(base: Recording, resid: Float[Tensor, "v b d"], measure: Measure, budget: int) -> Float[Tensor, "v b ..."]:
    """Final norm, then the measure's direction where it has one, else logits, a few variants at a time."""
    subject, b = base.subject, resid.shape[1]
    head = anatomy.linear_head(subject.model) if hasattr(measure, "direction") else None
    if head is not None:
        return _along(subject.norm(resid), head, measure)
    vocabulary = subject.model.get_input_embeddings().weight.shape[0]
    step = max(1, budget // (4 * 4 * b * vocabulary))
    found = []
    for part in resid.split(step):
        logits = subject.unembed(subject.norm(part.flatten(0, 1))).float()
        rows = torch.arange(b, device=logits.device).repeat(len(part))
        found.append(_shaped(measure(logits, rows), len(rows)).unflatten(0, (len(part), b)))
    return torch.cat(found).cpu()


def _along(normed: Tensor, head: tuple[Tensor, Tensor | None, float], measure: Any) -> Tensor:
    weight, bias, scale = head
    values = torch.einsum("vbd,bd->vb", normed.float(), measure.direction(weight).float().to(normed.device))
    if bias is not None:
        values = values + measure.direction(bias[:, None])[:, 0].float().to(normed.device)
    return (values * scale).cpu()


def _shaped(values: Any, n: int) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != n:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(f"the measure returned {got}, one number per row is needed: [{n}] or [{n}, m]")
    return values


@torch.no_grad()
def clean_values(base: Recording, measure: Measure) -> Float[Tensor, " b"]:
    """The measure without an edit."""
    return measured(base, base.resid[None], measure, BUDGET)[0]


__all__ = [
    "BUDGET",
    "Sweep",
    "ablation_sweep",
    "causal_trace",
    "knockout_sweep",
    "patch_sweep",
    "record",
    "variant_sweep",
]
