"""What readers of the residual stream hear of writers' changes, summed from gradients at points of the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..model import anatomy
from ..model.frozen_norms import attention_tail, written_by_heads
from .edge_graph import before, every_writer
from .edge_slopes import ByLayer, Reader, Slopes, Start, slopes_at_rows, slopes_from
from .edge_slopes_whole import slopes_of_forward
from .measures import Measure
from .positions import Positions, diverging_positions
from .proofs import obstacle_of
from .recording import LayerRecord, Recording

if TYPE_CHECKING:
    from ..model.subject import Subject

# Bytes of the gradients of a layer's readers that are held at once.
BUDGET = 2**28
Total = Float[Tensor, "reader writer b"]


def add_along_inputs(
    total: Total,
    base: Recording,
    donor: Recording,
    measure: Measure,
    share: float,
    readers: Sequence[Reader],
    positions: Bool[Tensor, "b p"],
) -> None:
    """Adds the effects that the gradient at one point of the way between the embeddings says."""
    heard = heard_by(readers)
    where, slopes = slopes_between(base, donor, measure, share, heard)
    # One layer's writers at a time: all of them would be as large as a few hundred residual streams.
    _add(
        total,
        slopes,
        heard,
        readers,
        asked_rows(base, where, positions),
        base.subject.d_model,
        lambda i: _written(base, donor, where, i),
    )


def add_along_activations(
    total: Total,
    base: Recording,
    donor: Recording,
    measure: Measure,
    share: float,
    readers: Sequence[Reader],
    positions: Bool[Tensor, "b p"],
) -> None:
    """Adds the same for each group of writers from the gradients at a point of its own way, all before it as in the
    base.
    """
    where, writers, begin = diverging_positions(base, donor), list(every_writer(base)), 0
    asked = asked_rows(base, where, positions)
    for start, said in _groups(base, donor, where, share):
        heard = heard_by([reader for reader in readers if before(writers[begin], reader, base.subject)])
        if heard:
            slopes = slopes_from(base, where, measure, start, heard)
            _add(total[:, begin:], slopes, heard, readers, asked, base.subject.d_model, lambda _, said=said: [said])
        begin += len(said)


def slopes_between(
    base: Recording, donor: Recording, measure: Measure, share: float, heard: ByLayer
) -> tuple[Positions, Slopes]:
    """The gradients at one point of the way between the embeddings, and the rows that they are of.

    Where both runs are the same, writers say the same: only the rows where they part are read.
    """
    whole = bool(obstacle_of(base))
    where = base.everywhere if whole else diverging_positions(base, donor)
    return where, (slopes_of_forward if whole else slopes_at_rows)(base, donor, where, measure, share, heard)


def heard_by(readers: Sequence[Reader]) -> dict[int, list[Reader]]:
    """By layer, the lowest first."""
    layers = sorted({reader.layer for reader in readers})
    return {layer: [reader for reader in readers if reader.layer == layer] for layer in layers}


def asked_rows(base: Recording, where: Positions, positions: Bool[Tensor, "b p"]) -> Bool[Tensor, "b s"]:
    """The rows that lie at these positions of the prompts."""
    return where.take(positions.to(where.real.device) & base.mask) & where.real


def _add(
    total: Total,
    slopes: Slopes,
    heard: ByLayer,
    readers: Sequence[Reader],
    asked: Bool[Tensor, "b s"],
    width: int,
    written: Callable[[int], Iterable[Float[Tensor, "writer b s d"]]],
) -> None:
    """A few readers at a time. written: the parts of the writers that a layer's readers may hear, in order."""
    place: Mapping[Reader, int] = {reader: i for i, reader in enumerate(readers)}
    at_once = max(1, BUDGET // (4 * asked.numel() * width))
    for layer, each in slopes:
        pairs = zip(heard[layer], each, strict=True)
        while some := list(islice(pairs, at_once)):
            read = torch.stack([slope.to(asked.device) for _, slope in some]) * asked[..., None]
            parts = [torch.einsum("rbsd,wbsd->rwb", read, w.to(read.device)).cpu() for w in written(layer)]
            found = torch.cat(parts, 1)
            total[[place[reader] for reader, _ in some], : found.shape[1]] += found


def _groups(
    base: Recording, donor: Recording, where: Positions, share: float
) -> Iterator[tuple[Start, Float[Tensor, "writer b s d"]]]:
    """Where each group of writers is on its way, and what its writers say in one run and not in the other."""
    embedded, *layers = _written(base, donor, where, len(base.layers) - 1)
    first = where.take(base.layers[0].resid_pre)
    yield Start(0, first + (share * embedded[0]).to(first)), embedded
    for i, said in enumerate(layers):
        state = where.take(base.layers[i].resid_pre)
        for site, some in (("attn_out", said[:-1]), ("mlp_out", said[-1:])):
            if len(some):
                # In units of the site, which a multiplier may follow.
                push = anatomy.times(share * some.sum(0), 1 / anatomy.gain(base.subject.layers[i], site))
                yield Start(i, state, site, push), some


def _written(
    base: Recording, donor: Recording, where: Positions, until: int
) -> Iterator[Float[Tensor, "writer b s d"]]:
    """What the embeddings, then each layer's heads and MLP, add at the rows in the donor's run and not in the base's.

    until: the layer of the readers, whose own writers are the last that any of them can hear.
    """
    yield from (written_by_layer(base, donor, where, layer) for layer in range(-1, min(until + 1, len(base.layers))))


def written_by_layer(base: Recording, donor: Recording, where: Positions, layer: int) -> Float[Tensor, "writer b s d"]:
    """The same of one layer: its heads or mixer, then its MLP; of layer −1 the embeddings."""
    if layer < 0:
        return _apart(where, base.layers[0].resid_pre, donor.layers[0].resid_pre).float()[None]
    subject, ours, theirs = base.subject, base.layers[layer], donor.layers[layer]
    mlp = _apart(where, ours.site("mlp_out"), theirs.site("mlp_out")).float()
    mlp = anatomy.times(mlp, anatomy.gain(subject.layers[layer], "mlp_out"))
    return torch.cat([*_mixed_apart(subject, layer, where, ours, theirs), mlp[None]])


def _apart(where: Positions, ours: Tensor, theirs: Tensor) -> Tensor:
    """The difference of two runs at the rows."""
    return where.take(theirs) - where.take(ours)


def _mixed_apart(
    subject: Subject, layer: int, where: Positions, ours: LayerRecord, theirs: LayerRecord
) -> list[Float[Tensor, "writer b s d"]]:
    """What a layer's heads, or its mixer, write in one run and not in the other."""
    if ours.attends:
        return [_heads_apart(subject, layer, where.take(ours.site("z")), where.take(theirs.site("z")))]
    if ours.mixed is None or theirs.mixed is None:
        return []
    mixed = _apart(where, ours.mixed, theirs.mixed).float()
    return [anatomy.times(mixed, anatomy.gain(subject.layers[layer], "attn_out"))[None]]


def _heads_apart(
    subject: Subject, layer: int, ours: Float[Tensor, "b s h e"], theirs: Float[Tensor, "b s h e"]
) -> Float[Tensor, "h b s d"]:
    """What the heads write in one run and not in the other."""
    if attention_tail(subject.layers[layer]) is None:  # linear: small differences keep their digits
        heads = written_by_heads(subject, layer, (theirs - ours).flatten(0, 1))[0]
    else:
        heads = torch.sub(*(written_by_heads(subject, layer, z.flatten(0, 1))[0] for z in (theirs, ours)))
    return heads.unflatten(0, ours.shape[:2]).permute(2, 0, 1, 3)
