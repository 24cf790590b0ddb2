"""Where an example's image tokens lie on its picture, as far as the model's and the processor's own numbers tell."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from .text_prompts import Encoded

if TYPE_CHECKING:
    from ..model.subject import Subject
    from .batch import Batch

# The mark of placeholders that hold no part of the picture but the model's learned newline.
NEWLINE = "image_newline"
# Inputs with one entry a picture that tell its grid.
PER_PICTURE = ("image_grid_thw", "pixel_values")


def grid(model: Any, pixels: Mapping[str, Tensor], n: int) -> tuple[int, int] | None:
    """Rows and columns of one picture's `n` tokens, row by row; None where no number of the model's says so.

    Known for families that give the grid itself (Qwen-VL, GLM-V: image_grid_thw over the merge size), and where every
    patch of the tower is one token (LLaVA 1.5, PaliGemma: pixels over the patch size).
    """
    vision, patches, merge = getattr(model.config, "vision_config", None), pixels.get("pixel_values"), 1
    given = pixels.get("image_grid_thw")
    patch = getattr(vision, "patch_size", None)
    if given is not None and len(given) == 1:
        frames, rows, columns = given[0].tolist()
        merge = getattr(vision, "spatial_merge_size", 1)
    elif patches is not None and patches.ndim == 4 and len(patches) == 1 and isinstance(patch, int):
        frames, rows, columns = 1, *(side // patch for side in patches.shape[-2:])
    else:
        return None
    rows, columns = rows // merge, columns // merge
    return (rows, columns) if frames == 1 and rows * columns == n else None


def grids(subject: Subject, batch: Batch) -> Int[Tensor, "b 2"]:
    """Rows and columns of each example's picture; 0 × 0 where they are not known, or where it has several pictures."""
    counts, found, at = batch.where("image").sum(1).tolist(), [], 0
    for example, n in zip(batch.examples, counts, strict=True):
        pictures = len(example.images)
        own = {name: batch.inputs[name][at : at + 1] for name in PER_PICTURE if name in batch.inputs}
        found.append((grid(subject.model, own, n) if pictures == 1 else None) or (0, 0))
        at += pictures
    return torch.tensor(found)


def mark_newlines(model: Any, encoded: Encoded, pixels: Mapping[str, Tensor]) -> Encoded:
    """`encoded` with the mark "image_newline", where the model puts newlines among the features of its pictures."""
    places = [i for i, role in enumerate(encoded.roles) if role == "image"]
    found = newlines(model, pixels)
    if not any(found) or len(found) != len(places):
        return encoded
    marked = {place for place, is_newline in zip(places, found, strict=True) if is_newline}
    marks = encoded.marks | {NEWLINE: [i in marked for i in range(len(encoded.ids))]}
    return Encoded(encoded.ids, encoded.roles, marks)


@torch.no_grad()
def newlines(model: Any, pixels: Mapping[str, Tensor]) -> list[bool]:
    """Which of an example's placeholders get the model's learned newline (LLaVA-NeXT, LLaVA-OneVision); [] elsewhere.

    The model's own packing is asked, with zeros for features and one for the newline.
    """
    inner, sizes = getattr(model, "model", None), pixels.get("image_sizes")
    pack = getattr(inner, "pack_image_features", None)
    count_tiles = getattr(sys.modules.get(type(inner).__module__), "image_size_to_num_patches", None)
    if pack is None or count_tiles is None or sizes is None or getattr(inner, "image_newline", None) is None:
        return []
    config = model.config
    vision = config.vision_config
    several = len(sizes) > 1 and "batch_num_images" in pixels  # OneVision cuts no tiles out of one of several pictures
    tiles = [1 if several else count_tiles(size, config.image_grid_pinpoints, vision.image_size) for size in sizes]
    features = [torch.zeros(n, (vision.image_size // vision.patch_size) ** 2, 1) for n in tiles]
    takes = signature(pack).parameters
    asked = {n: getattr(config, n) for n in ("vision_feature_select_strategy", "vision_aspect_ratio") if n in takes}
    packed, _ = pack(features, sizes, image_newline=torch.ones(1), **asked)
    return torch.cat(list(packed))[:, 0].bool().tolist()
