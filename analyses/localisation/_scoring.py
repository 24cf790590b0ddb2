"""Scores of an example's maps against its box, and the same of every control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .. import metrics
from ..common.controls import BOX, DRAWS, PERMUTED, example_keys, one_of_each, permutations
from ._places import Place

SCORES = ("attention ratio", "share in the box", "pointing game", "IoU", "AUROC")  # as `metrics.map_scores` gives them
CHANCE = {"attention ratio": 1.0, "AUROC": 0.5}
CENTRE, GAUSSIAN = "a box in the centre", "a Gaussian in the centre"
MIDDLE = (0.5, 0.5)


def scores(maps: Float[Tensor, "*maps cells"], place: Place) -> Float[Tensor, "*maps 5"]:
    """Of each map against the example's box."""
    return metrics.map_scores(place.laid(maps), place.box).movedim(0, -1)


def at_other_boxes(
    maps: Float[Tensor, "*maps cells"], place: Place, middles: Sequence[Sequence[float]], name: str
) -> Float[Tensor, "*maps 5"]:
    """Mean over draws of boxes of the same size around other examples' middles; NaN where none are known."""
    boxes = [place.moved(middle) for middle in one_of_each(middles, _keys(name))]
    if not boxes:
        return torch.full_like(maps[..., :1], torch.nan).expand(*maps.shape[:-1], len(SCORES))
    laid = place.laid(maps)
    found = {box: metrics.map_scores(laid, box) for box in set(boxes)}
    return torch.stack([found[box] for box in boxes]).mean(0).movedim(0, -1)


def controlled(
    maps: Mapping[str, Float[Tensor, "layer cells"]], place: Place, middles: Sequence[Sequence[float]], name: str
) -> dict[str, Float[Tensor, "layer 5"]]:
    """ "method|control": the scores of maps, "" for their own, and of the controls that need no other map."""
    whole = torch.cat(list(maps.values()))  # scored together: a call for each would cost more than the scores
    orders = permutations(len(place.positions), _keys(name))
    found = {
        "": scores(whole, place),
        BOX: at_other_boxes(whole, place, middles, name),
        CENTRE: scores(whole, place._replace(box=place.moved(MIDDLE))),
        GAUSSIAN: scores(place.gaussian().flatten(), place).expand(len(whole), -1),
        PERMUTED: scores(whole[:, orders], place).mean(1),
    }
    parts = {control: values.split([len(one) for one in maps.values()]) for control, values in found.items()}
    return {f"{method}|{control}": part[i] for control, part in parts.items() for i, method in enumerate(maps)}


def _keys(name: str) -> list[str]:
    return [key for draw in range(DRAWS) for key in example_keys([name], draw)]
