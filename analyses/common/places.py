"""Which positions of prompts are counted."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from ...probes.prompts.batch import Batch


def without_first(batch: Batch) -> Bool[Tensor, "b p"]:
    """The real positions behind each example's first, which is like no other in most models."""
    return batch.mask & (batch.mask.cumsum(1) > 1)


def text_without_first(batch: Batch) -> Bool[Tensor, "b p"]:
    """The tokens of text that are counted: all but images and each example's first."""
    return without_first(batch) & ~batch.where("image")
