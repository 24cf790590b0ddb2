"""What similarity keeps of an example: its mean state over the image and over the text."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from ..common.places import without_first
from ._similarity_sets import IMAGE, TEXT
from ._states import mean_over

LEFT_OUT = ("special", "image_separator", "image")  # of the text


def mean_states(tensor: Float[Tensor, "b p d"], batch: Batch) -> dict[str, Tensor]:
    """[b, d] by set; NaN for an example without such tokens. Without any image in the batch there is no "image"."""
    found = {TEXT: mean_over(tensor, text_tokens(batch))}
    image = batch.where("image") & without_first(batch)
    return found | ({IMAGE: mean_over(tensor, image)} if bool(image.any()) else {})


def text_tokens(batch: Batch) -> Bool[Tensor, "b p"]:
    """The tokens of text, without special ones and the first, which is like no other."""
    kept = without_first(batch)
    for role in LEFT_OUT:
        kept = kept & ~batch.where(role)
    return kept
