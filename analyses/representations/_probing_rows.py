"""What probing keeps of an example: its states at the last position and over its image, and what labels it has."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.example import Example
from ...probes.intervene.positions import at_last
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting
from ..common.thumbnails import picture_rows
from ._patches import at_patches, patches
from ._states import by_state, mean_over, states
from ._watched import in_half, random_states, tower_of, tower_states

TAIL = 32  # text tokens in front of the answer, among which the control task finds its word
PLACES = {"last": "last position", "image": "mean over image tokens"}
DECODER, TOWER = "decoder", "vision tower"
READ = PLACES | {"tower": "mean over the vision tower's patches"}  # PLACES are the decoder's
PATCHES = {"patch": DECODER, "tower|patch": TOWER}
RANDOM = "random|"  # what the rows of a twin with random weights begin with


def read_at(tensor: Float[Tensor, "b p *d"], batch: Batch) -> dict[str, Tensor]:
    """last: at the position that predicts the answer; image: the mean over the image's positions, NaN without one.
    Without any image in the batch there is no "image".
    """
    found = {"last": at_last(tensor, predicting(batch)[:, 0])}
    image = batch.where("image")
    if bool(image.any()) and tensor.ndim == 3:
        found["image"] = mean_over(tensor, image).to(tensor.dtype)
    return found


def watched(layer: Layer, batch: Batch, options: Any) -> dict[str, Tensor]:
    """What is kept of the state that enters the layer, and of the last layer also of the one that leaves it."""
    return by_state(layer, lambda state: _kept(state, batch, options))


def watched_states(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same of all layers, [b, states, d], and each head's output where it was asked for."""
    return states(kept, (*PLACES, "patch")) | ({"z": kept["z"]} if "z" in kept else {})


def _kept(state: Float[Tensor, "b p d"], batch: Batch, options: Any) -> dict[str, Tensor]:
    found, positions = read_at(state, batch), patches(batch, options.patches).positions
    return found | ({"patch": at_patches(state, positions)} if bool((positions >= 0).any()) else {})


def other_passes(subject: Any, batch: Batch, options: Any) -> dict[str, Tensor]:
    """Rows of the vision tower and of a twin with random weights, where they are asked for and can be had."""
    shown = options.tower and bool(batch.where("image").any())
    rows = tower_states(subject, batch, options.patches) if shown else {}
    if options.random:
        kept = random_states(subject, batch, options.patches, lambda one: watched(one, batch, options), shown)
        twin = watched_states(kept) | {name: kept[name] for name in ("tower", "tower|patch") if name in kept}
        rows |= {f"{RANDOM}{name}": values for name, values in twin.items()}
    return rows


def whole_pictures(layer: Layer, batch: Batch, options: Any) -> dict[str, Tensor]:
    """ "whole" [b, patches, d], half precision: the middle state's patches, where pooling is asked for and there is no
    tower to pool; NaN behind an example's last one.
    """
    there = batch.where("patches")
    from_tower = options.tower and tower_of(layer.subject) is not None
    if not options.queries or from_tower or layer.index != layer.stack.n_layers // 2 or not bool(there.any()):
        return {}
    order = (~there).int().argsort(dim=1, stable=True)[:, : int(there.sum(1).max())]
    return {"whole": in_half(at_patches(layer.resid_pre, order.where(there.gather(1, order), -1)))}


def shown_rows(batch: Batch, kept: Mapping[str, Tensor], options: Any) -> dict[str, Tensor]:
    """ "whole", what is pooled, and what its maps lie on: "whole|cell" [b, patches], where each patch lies row by row,
    "whole|grid" [b, 2], "picture" [b, side, side, 3]. Nothing unless every example has a picture.
    """
    whole = kept.get("tower|whole", kept.get("whole"))
    if whole is None or not options.queries or not all(example.images for example in batch.examples):
        return {}
    if "tower|whole" not in kept:
        pictures = picture_rows(batch)
        return {"whole": whole[:, 0], "whole|cell": pictures["cell"]} | {
            "whole|grid": pictures["grid"],
            "picture": pictures["picture"],
        }
    side, n = isqrt(whole.shape[1]), len(whole)
    return {
        "whole": whole,
        "whole|cell": torch.arange(side**2).float().expand(n, -1),
        "whole|grid": torch.full((n, 2), side),
        "picture": picture_rows(batch)["picture"],
    }


def answer_ids(batch: Batch) -> Int[Tensor, " b"]:
    ids = [batch.first_token_of(example, example.answer) if example.answer else -1 for example in batch.examples]
    return torch.tensor(ids)


def tails(batch: Batch) -> Int[Tensor, "b tail"]:
    """The last tokens of each prompt's text, the last one first."""
    found = torch.full((len(batch.examples), TAIL), -1)
    ids, ends = batch.inputs["input_ids"].cpu(), predicting(batch)[:, 0]
    places = torch.arange(ids.shape[1])
    text = batch.mask & ~batch.where("image") & (places <= ends[:, None])
    for row, own, there in zip(found, ids, text, strict=True):
        tokens = own[there].flip(0)[:TAIL]
        row[: len(tokens)] = tokens
    return found


def pictured_places(batch: Batch) -> Float[Tensor, "b 2"]:
    return torch.tensor([_place(example) for example in batch.examples])


def _place(example: Example) -> tuple[float, float]:
    """The middle of the one box that the example asks about, as shares of its picture."""
    boxes = example.boxes.get("asked_object", ())
    if len(boxes) != 1 or not example.images:
        return torch.nan, torch.nan
    left, top, right, bottom = boxes[0]
    width, height = example.images[0].size
    return (left + right) / 2 / width, (top + bottom) / 2 / height
