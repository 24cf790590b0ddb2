"""What probing keeps of an example: its states at the last position and over its image, and what labels it has."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.example import Example
from ...probes.intervene.positions import at_last
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting
from ._states import mean_over

TAIL = 32  # text tokens in front of the answer, among which the control task finds its word
PLACES = {"last": "last position", "image": "mean over image tokens"}


def read_at(tensor: Float[Tensor, "b p *d"], batch: Batch) -> dict[str, Tensor]:
    """last: at the position that predicts the answer; image: the mean over the image's positions, NaN without one.
    Without any image in the batch there is no "image".
    """
    found = {"last": at_last(tensor, predicting(batch)[:, 0])}
    image = batch.where("image")
    if bool(image.any()) and tensor.ndim == 3:
        found["image"] = mean_over(tensor, image).to(tensor.dtype)
    return found


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
