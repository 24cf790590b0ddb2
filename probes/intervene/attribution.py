"""Attribution: what patching would do, estimated from gradients; for heads and layers, and for edges between them.

(donor − base) · ∂measure/∂activation, the gradient taken at the base (attribution patching, arXiv 2310.10348) or as the
mean over points on the way from the base's embeddings, image features included, to the donor's (integrated gradients,
arXiv 2403.17806). A first-order estimate: show it beside exact effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...data.errors import UserError
from ..model import anatomy
from ..model.attention import replaying
from ..model.frozen_norms import attention_tail, written_by_heads
from ..model.subject import refuse_under_edit
from ..observe.tracing import Layer, first, tracing
from .measures import Measure
from .paths import instead_of, reading
from .proofs import obstacle_of
from .replay import Put, Recording, Rows, at_last, parted, ride_with_gradient, rows_of
from .sweep import PATCHED, Inputs, Sweep, clean_values, recorded, same_layout

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
        if site not in PATCHED:
            raise UserError(f"cannot attribute {site!r}: one of {', '.join(PATCHED)}")
    if isinstance(positions, str) and positions != "each":
        raise UserError(f"positions {positions!r}: a mask Bool[b, p], or 'each'")
    kept, given = _pair(subject, base, donor, sites)
    whole = torch.ones_like(kept.mask)
    rows = rows_of(whole, kept.last) if obstacle_of(kept) else parted(kept, given)
    effects = {site: torch.zeros(1) for site in sites}
    for share in _shares(steps):
        with frozen_weights(subject.model):
            slopes = _slopes(kept, given, rows, measure, share, sites)
        for site in sites:
            effects[site] = effects[site] + _changes(kept, given, rows, site, slopes[site], positions) / steps
    clean, moved = clean_values(kept, measure), clean_values(given, measure)
    return {site: Sweep(clean + effect, clean, donor=moved) for site, effect in effects.items()}


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


def _shares(steps: int) -> list[float]:
    """Where on the way from base to donor the gradients are taken."""
    if steps < 1:
        raise UserError(f"steps {steps}: at least one backward pass is needed")
    return [0.0] if steps == 1 else [(i + 0.5) / steps for i in range(steps)]


def _slopes(
    base: Recording, donor: Recording, rows: Rows, measure: Measure, share: float, sites: Collection[str]
) -> dict[str, list[Tensor]]:
    """Gradients at the rows, [b, s, ...] of every layer: replayed where the two runs differ, or by a whole forward."""
    if obstacle_of(base):
        run = _run(base, donor, measure, share, sites)
        shapes = {site: [layer.site(site).shape for layer in base.layers] for site in sites}
        found = {site: run.gradients(run.sites[site]) for site in sites}  # some families fold batch and positions
        return {site: [g.reshape(shape) for g, shape in zip(found[site], shapes[site], strict=True)] for site in sites}
    start = _between(base, donor, share)
    resid, found = ride_with_gradient(base, rows, {0: (Put("resid_pre", rows.chosen, start),)}, sites)
    value = _measured(base, resid, measure)
    gradients = iter(torch.autograd.grad(value, [tensor for site in sites for tensor in found[site]]))
    return {site: [next(gradients)[0].float() for _ in found[site]] for site in sites}


def _between(base: Recording, donor: Recording, share: float) -> Float[Tensor, "b p d"]:
    ours, theirs = base.layers[0].resid_pre, donor.layers[0].resid_pre
    return (ours + share * (theirs - ours)).detach().requires_grad_()


def _measured(base: Recording, resid: Float[Tensor, "b d"], measure: Measure) -> Tensor:
    """The measure's sum over examples."""
    with torch.enable_grad():
        logits = base.subject.unembed(base.subject.norm(resid)).float()
        return measure(logits, torch.arange(len(resid), device=logits.device)).sum()


def _changes(
    base: Recording,
    donor: Recording,
    rows: Rows,
    site: str,
    slopes: list[Tensor],
    positions: Bool[Tensor, "b p"] | str,
) -> Float[Tensor, "layer ... b"]:
    """(donor − base) · slope, [layer(, head), b], or [layer(, head), pos, b] with "each"."""
    each = isinstance(positions, str)
    chosen = (base.mask if isinstance(positions, str) else positions.to(base.mask.device) & base.mask).cpu()
    index, real = rows.index.cpu(), rows.real.cpu()
    found = []
    for slope, ours, theirs in zip(slopes, base.layers, donor.layers, strict=True):
        moved = (rows.take(theirs.site(site)) - rows.take(ours.site(site))).float()
        change = (moved * slope).sum(-1).cpu()
        axes = [1] * (change.ndim - 2)
        change = change * real.reshape(*real.shape, *axes)
        everywhere = torch.zeros(*chosen.shape, *change.shape[2:])
        everywhere.scatter_add_(1, index.reshape(*index.shape, *axes).expand(change.shape), change)
        found.append(everywhere.where(chosen.reshape(*chosen.shape, *axes), torch.nan if each else 0.0))
    effects = torch.stack(found)  # [layer, b, p(, head)]
    return effects.transpose(1, -1) if each else effects.sum(2).movedim(1, -1)


class Writer(NamedTuple):
    """What writes into the residual stream: kind "embed" (layer −1), "head" or "mlp"; head is −1 but for heads."""

    kind: str
    layer: int
    head: int


class Reader(NamedTuple):
    """What reads the residual stream: kind "q", "k", "v" (of a query or KV head), "mlp" or "final" (layer L)."""

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

    Readers are the inputs (before the norm) of every head's query, of every KV head's key and value, of every MLP, and
    the final residual. readers: these alone; positions: what they read there alone. Where a norm stands between heads
    and residual, each run's scale is held as it is. UserError: such a norm behind an output bias, whose part would be
    nobody's; an edit around it; a reader that does not exist; prompts of other lengths; fewer than one step.
    """
    refuse_under_edit(subject, "edge attribution")
    if any(attention_tail(layer) is not None and anatomy.output_bias(layer) is not None for layer in subject.layers):
        raise UserError(f"{subject.family} norms its heads and a bias together: heads have no edges of their own")
    kept, given = _pair(subject, base, donor, ("z", "mlp_out"))
    chosen = [r for r in every_reader(kept) if readers is None or r in readers]
    if missing := set(readers or ()) - set(chosen):
        raise UserError(f"no reader {next(iter(missing))} in {subject.family} ({subject.name})")
    where = (kept.mask if positions is None else positions.to(kept.mask.device) & kept.mask)[..., None]
    writers = list(every_writer(kept))
    total = torch.zeros(len(chosen), len(writers), len(where))
    for share in _shares(steps):
        with frozen_weights(subject.model):
            run = _run(kept, given, measure, share, ("resid_pre",))
            behind = run.behind()
            for layer, group in groupby(enumerate(chosen), key=lambda place: place[1].layer):
                places, here = zip(*group, strict=True)
                slopes = torch.stack([slope.to(where.device) for slope in _heard(run, behind, layer, here)]) * where
                # One layer's writers at a time: all of them would be as large as a few hundred residual streams.
                found = _written(kept, given, layer)
                written = [torch.einsum("rbpd,wbpd->rwb", slopes, w.to(where.device)).cpu() for w in found]
                total[list(places), : sum(w.shape[1] for w in written)] += torch.cat(written, 1) / steps
    before = torch.tensor([[_before(w, r, subject) for w in writers] for r in chosen])
    return Edges(total.masked_fill(~before[..., None], torch.nan), chosen, writers)


def _pair(subject: Subject, base: Inputs, donor: Inputs, sites: Collection[str]) -> tuple[Recording, Recording]:
    kept, given = recorded(subject, base, sites), recorded(subject, donor, sites)
    same_layout(kept, given)
    return kept, given


@dataclass(eq=False)
class _Run:
    """One forward with gradients: some sites of every layer, and the layers themselves."""

    subject: Subject
    sites: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    layers: list[Layer] = field(default_factory=list)
    value: Tensor = field(default_factory=lambda: torch.zeros(()))

    def gradients(self, of: list[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(self.value, of, retain_graph=True)
        return [gradient.detach().float() for gradient in found]

    def behind(self) -> list[list[Tensor]]:
        """The gradients at every layer's queries, keys, values and at the residual that leaves it, in one pass."""
        calls = [(layer.attention, layer.resid_post) for layer in self.layers]
        found = self.gradients([t for call, left in calls for t in (call.query, call.key, call.value, left)])
        return [found[at : at + 4] for at in range(0, len(found), 4)]


def _run(base: Recording, donor: Recording, measure: Measure, share: float, sites: Collection[str]) -> _Run:
    """A whole forward from a point between the two runs' embeddings; the measure's sum over examples is its value."""
    run = _Run(base.subject)

    def remember(site: str, tensor: Tensor) -> Tensor:
        run.sites[site].append(tensor)
        return tensor

    def start(_: Tensor) -> Tensor:
        begun = _between(base, donor, share)
        return remember("resid_pre", begun) if "resid_pre" in sites else begun

    rewrites = {(i, site): partial(remember, site) for i in range(len(base.layers)) for site in sites}
    rewrites |= {(0, "resid_pre"): start}
    with tracing(base.subject, run.layers.append, rewrites=rewrites):
        base.subject.forward(base.inputs, gradient=True)
    run.value = _measured(base, at_last(run.layers[-1].resid_post, base.last), measure)
    return run


def every_writer(base: Recording) -> Iterator[Writer]:
    """What writes into the residual stream of a model, in order."""
    yield Writer("embed", -1, -1)
    for i in range(len(base.layers)):
        yield from (Writer("head", i, head) for head in range(base.subject.n_heads))
        yield Writer("mlp", i, -1)


def every_reader(base: Recording) -> Iterator[Reader]:
    """What reads the residual stream of a model, in the order of its layers."""
    for i, kept in enumerate(base.layers):
        kv_heads = kept.value.shape[1]
        for part, heads in (("q", base.subject.n_heads), ("k", kv_heads), ("v", kv_heads)):
            yield from (Reader(part, i, head) for head in range(heads))
        yield Reader("mlp", i, -1)
    yield Reader("final", len(base.layers), -1)


def _written(base: Recording, donor: Recording, until: int) -> Iterator[Float[Tensor, "writer b p d"]]:
    """What the embeddings, then each layer's heads and MLP, add in the donor's run and not in the base's.

    until: the layer of the readers, whose own writers are the last that any of them can hear.
    """
    subject = base.subject
    yield (donor.layers[0].resid_pre - base.layers[0].resid_pre).float()[None]
    for i, (ours, theirs) in enumerate(zip(base.layers[: until + 1], donor.layers, strict=False)):
        mlp = (theirs.site("mlp_out") - ours.site("mlp_out")).float() * anatomy.multiplier(subject.layers[i])
        yield torch.cat([_heads_apart(subject, i, ours.site("z"), theirs.site("z")), mlp[None]])


def _heads_apart(
    subject: Subject, layer: int, ours: Float[Tensor, "b p h e"], theirs: Float[Tensor, "b p h e"]
) -> Float[Tensor, "h b p d"]:
    """What the heads write in one run and not in the other."""
    if attention_tail(subject.layers[layer]) is None:  # linear: small differences keep their digits
        heads = written_by_heads(subject, layer, (theirs - ours).flatten(0, 1))[0]
    else:
        heads = torch.sub(*(written_by_heads(subject, layer, z.flatten(0, 1))[0] for z in (theirs, ours)))
    return heads.unflatten(0, ours.shape[:2]).permute(2, 0, 1, 3)


def _heard(
    run: _Run, behind: list[list[Tensor]], i: int, readers: Sequence[Reader]
) -> Iterator[Float[Tensor, "b p d"]]:
    """The gradient at the own input of each of these readers of layer i."""
    if i == len(run.layers):
        yield behind[-1][-1]
        return
    block, layer = run.subject.layers[i], run.layers[i]
    state = layer.resid_pre.detach().requires_grad_()
    arguments = layer.arguments | {"hidden_states": state}
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


def _pulled(output: Tensor, state: Tensor, slope: Tensor) -> Tensor:
    """A gradient at `output` pulled back to `state`."""
    return torch.autograd.grad(output, state, slope.to(output), retain_graph=True)[0].detach().float()


def _before(writer: Writer, reader: Reader, subject: Subject) -> bool:
    """Whether a writer has written when a reader reads."""
    same = reader.kind == "mlp" and writer.kind == "head" and not anatomy.is_parallel(subject.layers[reader.layer])
    return writer.layer < reader.layer or (same and writer.layer == reader.layer)
