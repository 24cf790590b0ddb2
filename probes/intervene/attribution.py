"""Attribution: what patching would do, estimated from gradients, for heads and layers (edges: `edge_attribution`).

(donor − base) · ∂measure/∂activation, the gradient taken at the base (attribution patching, arXiv 2310.10348) or as the
mean over points on the way from the base's embeddings, image features included, to the donor's (integrated gradients,
arXiv 2403.17806). A first-order estimate: show it beside exact effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...data.errors import UserError
from ..observe.layer import Layer
from ..observe.tracing import tracing
from ..sites import SITES, SiteError, require_writable
from .interventions import Patch
from .measures import Measure
from .positions import Positions, at_last, diverging_positions
from .proofs import obstacle_of
from .readout import clean_values
from .recording import Recording
from .replay import replay_with_gradient
from .sweep import Inputs, Sweep, recorded, same_layout

if TYPE_CHECKING:
    from ..model.subject import Subject


def attribution_sweep(
    subject: Subject,
    base: Inputs,
    donor: Inputs,
    site: str,
    *,
    positions: Bool[Tensor, "b p"] | str,
    measure: Measure,
    steps: int = 1,
) -> Sweep:
    """What `patch_sweep` with the same arguments would give, estimated from `steps` backward passes.

    steps: 1 takes the gradient at the base; more take its mean at the middles of that many equal parts of the way to
    the donor. Shapes as in `patch_sweep`; values are the measure that patching is expected to reach: clean + estimate.
    UserError: an unknown site, prompts of other lengths, fewer than one step.
    """
    sweeps = attribution_sweeps(subject, base, donor, (site,), positions=positions, measure=measure, steps=steps)
    return sweeps[site]


def attribution_sweeps(
    subject: Subject,
    base: Inputs,
    donor: Inputs,
    sites: Collection[str],
    *,
    positions: Bool[Tensor, "b p"] | str,
    measure: Measure,
    steps: int = 1,
) -> dict[str, Sweep]:
    """`attribution_sweep` of several sites from the same backward passes."""
    for site in sites:
        require_writable(site, "attribute")
        if SITES[site].reads == "derived":
            raise UserError(f"cannot attribute {site!r}, which follows from other sites: attribute those")
    if isinstance(positions, str) and positions != "each":
        raise UserError(f"positions {positions!r}: a mask Bool[b, p], or 'each'")
    clean, other = recorded_pair(subject, base, donor, sites)
    where = clean.everywhere if obstacle_of(clean) else diverging_positions(clean, other)
    effects = {site: torch.zeros(1) for site in sites}
    for share in path_shares(steps):
        with frozen_weights(subject.model):
            slopes = _slopes(clean, other, where, measure, share, sites)
        for site in sites:
            effects[site] = effects[site] + _changes(clean, other, where, site, slopes[site], positions) / steps
    of_base, of_donor = clean_values(clean, measure), clean_values(other, measure)
    each = ["position"] if isinstance(positions, str) else []
    axes = {site: ("layer", *(["head"] if "head" in SITES[site].axes else []), *each, "example") for site in sites}
    return {site: Sweep(of_base + e, of_base, donor=of_donor, axes=axes[site]) for site, e in effects.items()}


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """In the block no weight asks for a gradient: else the graph keeps what every linear layer reads."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in asking:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in asking:
            weight.requires_grad_()


def path_shares(steps: int) -> list[float]:
    """Where on the way from base to donor the gradients are taken."""
    if steps < 1:
        raise UserError(f"steps {steps}: at least one backward pass is needed")
    return [0.0] if steps == 1 else [(i + 0.5) / steps for i in range(steps)]


def _slopes(
    base: Recording, donor: Recording, where: Positions, measure: Measure, share: float, sites: Collection[str]
) -> dict[str, list[Tensor]]:
    """Gradients at the rows, [b, s, ...] of every layer: replayed where the two runs differ, or by a whole forward."""
    if obstacle_of(base):
        run = run_with_gradient(base, donor, measure, share, sites)
        shapes = {site: [layer.site(site).shape for layer in base.layers if layer.holds(site)] for site in sites}
        slopes = {site: run.gradients(run.sites[site]) for site in sites}  # some families fold batch and positions
        return {site: [g.reshape(shape) for g, shape in zip(slopes[site], shapes[site], strict=True)] for site in sites}
    start = between(base, donor, share)
    variant = {0: (Patch("resid_pre", where.chosen, start),)}
    resid, tensors = replay_with_gradient(base, where, variant, sites)
    value = measured_sum(base, resid, measure)
    gradients = iter(torch.autograd.grad(value, [tensor for site in sites for tensor in tensors[site]]))
    return {site: [next(gradients)[0].float() for _ in tensors[site]] for site in sites}


def between(base: Recording, donor: Recording, share: float) -> Float[Tensor, "b p d"]:
    ours, theirs = base.layers[0].resid_pre, donor.layers[0].resid_pre
    return (ours + share * (theirs - ours)).detach().requires_grad_()


def measured_sum(base: Recording, resid: Float[Tensor, "b d"], measure: Measure) -> Tensor:
    """The measure's sum over examples."""
    with torch.enable_grad():
        logits = base.subject.unembed(base.subject.norm(resid)).float()
        return measure(logits, torch.arange(len(resid), device=logits.device)).sum()


def _changes(
    base: Recording,
    donor: Recording,
    where: Positions,
    site: str,
    slopes: list[Tensor],
    positions: Bool[Tensor, "b p"] | str,
) -> Float[Tensor, "layer ... b"]:
    """(donor − base) · slope, [layer(, head), b], or [layer(, head), pos, b] with "each"."""
    each = isinstance(positions, str)
    device = base.mask.device  # moved from it once, behind all layers
    chosen = base.mask if isinstance(positions, str) else positions.to(device) & base.mask
    index, real = where.index, where.real
    by_layer = []
    pairs = [(a, b) for a, b in zip(base.layers, donor.layers, strict=True) if a.holds(site)]
    for slope, (ours, theirs) in zip(slopes, pairs, strict=True):
        moved = (where.take(theirs.site(site)) - where.take(ours.site(site))).float()
        change = (moved * slope).sum(-1).to(device)
        axes = [1] * (change.ndim - 2)
        change = change * real.reshape(*real.shape, *axes)
        everywhere = change.new_zeros(*chosen.shape, *change.shape[2:])
        everywhere.scatter_add_(1, index.reshape(*index.shape, *axes).expand(change.shape), change)
        by_layer.append(everywhere.where(chosen.reshape(*chosen.shape, *axes), torch.nan if each else 0.0))
    effects = torch.stack(by_layer).cpu()  # [layer, b, p(, head)]
    effects = effects.transpose(1, -1) if each else effects.sum(2).movedim(1, -1)
    everywhere = effects.new_full((len(base.layers), *effects.shape[1:]), torch.nan)  # but in layers without the site
    everywhere[[i for i, layer in enumerate(base.layers) if layer.holds(site)]] = effects
    return everywhere


def recorded_pair(subject: Subject, base: Inputs, donor: Inputs, sites: Collection[str]) -> tuple[Recording, Recording]:
    clean, other = recorded(subject, base, sites), recorded(subject, donor, sites)
    same_layout(clean, other)
    return clean, other


@dataclass(eq=False)
class GradientRun:
    """One forward with gradients: some sites of every layer, and the layers themselves."""

    subject: Subject
    sites: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    layers: list[Layer] = field(default_factory=list)
    value: Tensor = field(default_factory=lambda: torch.zeros(()))

    def gradients(self, of: list[Tensor]) -> list[Tensor]:
        gradients = torch.autograd.grad(self.value, of, retain_graph=True)
        return [gradient.detach().float() for gradient in gradients]

    def behind(self) -> list[list[Tensor]]:
        """The gradients at every layer's queries, keys, values (or what a mixer in their place writes) and at the
        residual that leaves it, in one pass.
        """
        tensors = [[*_read_or_mixed(layer), layer.resid_post] for layer in self.layers]
        gradients = iter(self.gradients([tensor for of_layer in tensors for tensor in of_layer]))
        return [[next(gradients) for _ in of_layer] for of_layer in tensors]


def _read_or_mixed(layer: Layer) -> list[Tensor]:
    if layer.attends:
        return [layer.attention.query, layer.attention.key, layer.attention.value]
    try:
        return [layer.written("attn_out")]
    except SiteError:  # a block that is an MLP alone
        return []


def run_with_gradient(
    base: Recording, donor: Recording, measure: Measure, share: float, sites: Collection[str]
) -> GradientRun:
    """A whole forward from a point between the two runs' embeddings; the measure's sum over examples is its value."""
    run = GradientRun(base.subject)

    def remember(site: str, tensor: Tensor) -> Tensor:
        run.sites[site].append(tensor)
        return tensor

    def start(_: Tensor) -> Tensor:
        begun = between(base, donor, share)
        return remember("resid_pre", begun) if "resid_pre" in sites else begun

    held = [(i, site) for i, layer in enumerate(base.layers) for site in sites if layer.holds(site)]
    rewrites = {(i, site): partial(remember, site) for i, site in held}
    rewrites |= {(0, "resid_pre"): start}
    with tracing(base.subject, run.layers.append, rewrites=rewrites):
        base.subject.forward(base.inputs, gradient=True)
    run.value = measured_sum(base, at_last(run.layers[-1].resid_post, base.last), measure)
    return run
