"""The two maps that say where to crop, and the layers that they are read at, chosen on held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import another_question
from ..common.frames import middle
from ._attention_maps import LAMBDA, fused
from ._crop_boxes import Shown, shown
from ._looks import attention_rows
from ._places import places
from ._scoring import SCORES, scores

AUROC = SCORES.index("AUROC")
Maps = Float[Tensor, "layer cells"]


class Layers(NamedTuple):
    """layer: of relative attention; start: the first of CARVE's window; scored: how many boxes chose them, 0 where none
    was known and they are the middle ones.
    """

    layer: int
    start: int
    scored: int


def general_rows(
    subject: Any, batch: Batch, where: Sequence[Shown | None], general: str
) -> Float[Tensor, "b layer cells"] | None:
    """What the last position gives to the map under the general prompt, heads averaged; NaN where there is none."""
    changed = [
        None if one is None else another_question(example, general)
        for example, one in zip(batch.examples, where, strict=True)
    ]
    chosen = [i for i, example in enumerate(changed) if example is not None]
    if not chosen:
        return None
    other = subject.batch([example for example in changed if example is not None], **batch.form)
    found = attention_rows(subject, other, [one and one.place for one in shown(other)]).mean(2)
    whole = found.new_full((len(changed), *found.shape[1:]), torch.nan)
    whole[chosen] = found
    return whole


def relative_maps(own: Maps, general: Maps, eps: float) -> Maps:
    """A(question) / (A(general) + eps · its mean), layer by layer."""
    return metrics.relative_attention(own, general + eps * general.mean(-1, keepdim=True))


def fused_map(own: Maps, general: Maps, start: int, window: int) -> Float[Tensor, " cells"]:
    """CARVE's fusion of the contrast in `window` layers from `start` on, at the last position: one step."""
    contrast = metrics.relative_attention(own, general, LAMBDA)[start : start + window].nan_to_num()
    return metrics.fused_contrast(contrast[None])


def chosen_layers(subject: Any, batches: Sequence[Batch], asked: str, general: str, window: int, eps: float) -> Layers:
    """The layer and the window whose maps have the best mean AUROC against the boxes of these prompts."""
    relative, contrast = [], []
    for batch in batches:
        where = places(batch, asked)
        known = any(place is not None for place in where)
        beside = general_rows(subject, batch, shown(batch, asked), general) if known else None
        if beside is None:
            continue
        own = attention_rows(subject, batch, where).mean(2)
        for row, place in enumerate(where):
            if place is not None:
                mine, theirs = (x[row, :, : len(place.positions)] for x in (own, beside))
                relative.append(scores(relative_maps(mine, theirs, eps), place)[:, AUROC])
                contrast.append(scores(fused(mine[:, None], theirs[:, None], window), place)[:, AUROC])
    if not relative:
        attending = subject.decoder.attending
        return Layers(attending[len(attending) // 2], middle(subject.n_layers).start, 0)
    return Layers(_best(relative), _best(contrast), len(relative))


def _best(found: Sequence[Tensor]) -> int:
    """The layer of largest mean; what one lacks, every one does: layers without heads, windows beyond the last."""
    mean = torch.stack(list(found)).double().mean(0)
    return int(mean.nan_to_num(nan=-torch.inf).argmax())
