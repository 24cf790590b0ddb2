"""Patching and ablation: activations of another run, zeros or means in place of a run's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..sites import SITES, require_writable
from .interventions import Patch
from .measures import Measure
from .readout import BUDGET, clean_values
from .recording import Recording
from .replay import require_sweepable
from .sweep import Inputs, Sweep, in_all_layers, layers_with, recorded, require_layers, same_layout, swept

if TYPE_CHECKING:
    from ..model.subject import Subject


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

    site: "z" (each head), or another that can be changed ("resid_pre", "attn_out", "mlp_out", …; each layer).
    positions: Bool[b, p], patched together, or "each". Returns values [layer, head, b] for z and [layer, b] elsewhere,
    NaN in layers without attention; with "each" one more axis before b, NaN at padding; clean [b], donor [b].
    layers: these alone, not all.
    UserError: an unknown site, prompts of other lengths, donors equal to the base, a measure of the wrong shape.
    InterventionError: an edit without effect.
    """
    require_writable(site, "patch")
    clean = recorded(subject, base, (site,))
    other = recorded(subject, donor, (site,))
    same_layout(clean, other)
    chosen = layers_with(subject, (site,)) if layers is None else layers
    require_layers(clean, chosen)
    for i in chosen:
        require_sweepable(clean, i, site)
    values = {i: other.layers[i].site(site) for i in chosen}
    sweep = _patched(clean, site, values, positions, measure, budget, donor=clean_values(other, measure))
    return in_all_layers(sweep, chosen, subject.n_layers) if layers is None else sweep


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
    base = recorded(subject, inputs, (site,))
    if by not in ("zero", "mean"):
        raise UserError(f"ablation by {by!r}: 'zero' or 'mean' (to resample, use patch_sweep)")
    chosen = layers_with(subject, (site,))
    sites = {i: base.layers[i].site(site) for i in chosen}
    if by == "mean":
        real = base.mask.nonzero(as_tuple=True)  # once: whoever asks which are true waits for the device
        values = {i: t[tuple(at.to(t.device) for at in real)].mean(0)[None, None] for i, t in sites.items()}
    else:
        values = {i: t.new_zeros(1, 1, *t.shape[2:]) for i, t in sites.items()}
    return in_all_layers(_patched(base, site, values, positions, measure, budget), chosen, subject.n_layers)


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


def _patched(
    base: Recording,
    site: str,
    values: dict[int, Tensor],
    positions: Bool[Tensor, "b p"] | str,
    measure: Measure,
    budget: int,
    donor: Float[Tensor, " b"] | None = None,
) -> Sweep:
    """The sweep of putting `values` (by layer) into a site, by head where there are heads."""
    if isinstance(positions, str) and positions != "each":
        raise UserError(f"positions {positions!r}: a mask Bool[b, p], or 'each'")
    each = isinstance(positions, str)
    patches = {i: Patch(site, None if isinstance(positions, str) else positions, v) for i, v in values.items()}
    over = ("layer", *(["head"] if "head" in SITES[site].axes else []), *(["position"] if each else []))
    return replace(swept(base, patches, measure, over, budget), donor=donor)
