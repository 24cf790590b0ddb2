"""The two maps that say where to crop, and the layers that they are read at, chosen on held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from ..common.changed import changed
from ..common.controls import another_question
from ..common.frames import middle
from ._attention_maps import fused, relative
from ._crop_boxes import Shown, shown
from ._looks import attention_rows
from ._places import places
from ._scoring import SCORES, scores

AUROC = SCORES.index("AUROC")


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
    placed = {example.id for example, one in zip(batch.examples, where, strict=True) if one is not None}
    made = changed(subject, batch, lambda e: another_question(e, general) if e.id in placed else None)
    if made is None:
        return None
    return made.spread(attention_rows(subject, made.batch, [one and one.place for one in shown(made.batch)]).mean(2))


def chosen_layers(subject: Any, batches: Sequence[Batch], asked: str, general: str, window: int, eps: float) -> Layers:
    """The layer and the window whose maps have the best mean AUROC against the boxes of these prompts."""
    ratios, contrast = [], []
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
                ratios.append(scores(relative(mine, theirs, eps), place)[:, AUROC])
                contrast.append(scores(fused(mine[:, None], theirs[:, None], window), place)[:, AUROC])
    if not ratios:
        attending = subject.decoder.attending
        return Layers(attending[len(attending) // 2], middle(subject.n_layers).start, 0)
    return Layers(_best(ratios), _best(contrast), len(ratios))


def _best(found: Sequence[Tensor]) -> int:
    """The layer of largest mean; what one lacks, every one does: layers without heads, windows beyond the last."""
    mean = torch.stack(list(found)).double().mean(0)
    return int(mean.nan_to_num(nan=-torch.inf).argmax())
