"""The rows of a batch: where the pictures are cropped, and what is answered about each crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How
from ..common.thumbnails import picture_rows
from ._attention_maps import fused, relative
from ._crop_asking import ALONE, BESIDE, MEASURES, SHOWN, answers, twice, with_crop
from ._crop_boxes import ATTENDED, CROPS, Pixels, Shown, covered, crops, shown
from ._crop_maps import general_rows

Crops = list[dict[str, list[Pixels]]]


def crop_rows(subject: Any, batch: Batch, own: Tensor, how: How) -> dict[str, Tensor]:
    """Rows: "whole", "twice" [b, MEASURES]; "crops" [b, CROPS, SHOWN, MEASURES], means over the random draws;
    "covered", "taken" [b, CROPS], the shares of the object and of the picture in a crop; "box" [b, 4], the attention
    crop in px; "size" [b, 2], of the picture; "area" [b], the object's share of it; "cropped" [b], whether it is larger
    than its crop; "map" [b, cells], relative attention, its largest value 1; and what pictures need.

    own: attention of the last position on the map's cells, heads averaged [b, layer, cells].
    """
    where = shown(batch, how.options.asked)
    general = general_rows(subject, batch, where, how.options.general)
    window = input_size(subject, how.options.window)
    found, maps = [], torch.full(own[:, 0].shape, torch.nan)
    for row, one in enumerate(where):
        made = _crops_of(one, own[row], None if general is None else general[row], window, batch.example_ids[row], how)
        found.append(made[0])
        if made[1] is not None:
            maps[row, : len(made[1])] = made[1] / made[1].max()
    asked = [one and one.asked for one in where]
    pictures = picture_rows(batch)
    return {
        **_asked_again(subject, batch, found, how),
        "covered": _means(found, lambda row, crop: covered(asked[row], crop)),
        "taken": _means(found, lambda row, crop: _share(crop, batch, row)),
        "box": torch.tensor([boxes[ATTENDED][0] if boxes else (torch.nan,) * 4 for boxes in found]),
        "area": torch.tensor([torch.nan if one is None else one.area for one in where]),
        "cropped": torch.tensor(
            [float(bool(boxes) and _share(boxes[ATTENDED][0], batch, row) < 1) for row, boxes in enumerate(found)]
        ),
        "size": torch.tensor([g.pictures[0].size if g.pictures else (torch.nan,) * 2 for g in batch.geometry]),
        "map": maps,
        "picture": pictures["picture"],
        "grid": pictures["grid"],
        "unplaced": pictures["unplaced"],
    }


def input_size(subject: Any, asked: int) -> int:
    """Pixels of a side of what the model sees at once. UserError: its configuration does not say, and nobody else."""
    if asked > 0:
        return asked
    said = getattr(getattr(subject.model.config, "vision_config", None), "image_size", None)
    if isinstance(said, list | tuple):
        said = min(said)
    if not said:
        raise UserError(
            f"{subject.name} has no input size of its own: name the smallest crop in pixels, --crop_and_ask.window 448"
        )
    return int(said)


def _crops_of(
    one: Shown | None, own: Tensor, general: Tensor | None, window: int, name: str, how: How
) -> tuple[dict[str, list[Pixels]], Tensor | None]:
    """The crops and the map of relative attention; nothing without a map, or without a general prompt."""
    if one is None or general is None or bool(general.isnan().all()):
        return {}, None
    options, learned, cells = how.options, how.learned, len(one.place.positions)
    own, general = own[:, :cells].float().cpu(), general[:, :cells].float().cpu()
    ratio = relative(own, general, options.eps)[learned.layer]
    contrast = fused(own[:, None], general[:, None], options.layers)[learned.start]
    return crops(one, ratio, contrast, window, options.share, options.regions, name, options.draws), ratio


def _asked_again(subject: Any, batch: Batch, found: Crops, how: How) -> dict[str, Tensor]:
    form, examples = batch.form, [e if boxes else None for e, boxes in zip(batch.examples, found, strict=True)]
    again = torch.full((len(found), len(CROPS), len(SHOWN), len(MEASURES)), torch.nan)
    ways = [way for way in SHOWN if way == ALONE or not how.learned.refused]
    for column, name in enumerate(CROPS):
        for place in (SHOWN.index(way) for way in ways):
            draws = max((len(boxes.get(name, ())) for boxes in found), default=0)
            several = [answers(subject, _with(batch, found, name, draw, SHOWN[place]), form) for draw in range(draws)]
            if several:
                again[:, column, place] = torch.stack(several).mean(0)
    doubled = [None if e is None or BESIDE not in ways else twice(e) for e in examples]
    return {
        "whole": answers(subject, examples, form),
        "twice": answers(subject, doubled, form),
        "crops": again,
    }


def _with(batch: Batch, found: Crops, name: str, draw: int, way: str) -> Sequence[Any]:
    """Each example with its crop of this name, None where it has none."""
    return [
        with_crop(example, boxes[name][draw], way) if name in boxes else None
        for example, boxes in zip(batch.examples, found, strict=True)
    ]


def _means(found: Crops, of: Any) -> Tensor:
    """[b, CROPS]: the mean over draws of a number of each crop."""
    rows = [
        [np.mean([of(row, crop) for crop in boxes[name]]) if name in boxes else np.nan for name in CROPS]
        for row, boxes in enumerate(found)
    ]
    return torch.tensor(np.array(rows, np.float32))


def _share(crop: Pixels, batch: Batch, row: int) -> float:
    """The share of the picture that a crop is."""
    width, height = batch.geometry[row].pictures[0].size
    return (crop[2] - crop[0]) * (crop[3] - crop[1]) / (width * height)
