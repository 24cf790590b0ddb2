"""The same question about other pictures: the whole, the whole twice, a crop beside it, a crop alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...data.images import rgb
from ._crop_boxes import Pixels
from ._looks import steps_of

BESIDE, ALONE = "image and crop", "crop alone"
SHOWN = (BESIDE, ALONE)
MEASURES = ("right", "log-probability", "margin", "tokens")
UNITS = ("share of answers", "nats", "logits", "tokens")


def with_crop(example: Example, crop: Pixels, way: str) -> Example:
    """The example with a crop of its one picture in the picture's place, or behind it. Boxes, which were the whole
    picture's, go.
    """
    at = next(i for i, s in enumerate(example.segments) if not isinstance(s.content, str))
    own = example.segments[at]
    assert isinstance(own.content, Image.Image)
    cut = own._replace(content=rgb(own.content, f"example {example.id}: the image").crop(crop), marks={})
    pictures = (own, cut) if way == BESIDE else (cut,)
    return replace(example, segments=(*example.segments[:at], *pictures, *example.segments[at + 1 :]), boxes={})


def twice(example: Example) -> Example:
    """The example with its one picture two times."""
    picture = example.images[0]
    return with_crop(example, (0, 0, *rgb(picture, f"example {example.id}: the image").size), BESIDE)


def refused(subject: Any, example: Example, form: Mapping[str, Any]) -> str:
    """Why the subject does not take two pictures in this prompt, "" where it does: nothing is run for it."""
    try:
        subject.batch([twice(example)], **form)
    except UserError as error:
        return str(error)
    return ""


def answers(subject: Any, examples: Sequence[Example | None], form: Mapping[str, Any]) -> Float[Tensor, "b measures"]:
    """MEASURES of the answer's first token behind each prompt, NaN for None and without an answer.

    right: it is the likeliest of the answer and the wrong ones, or of all tokens where there are no wrong ones; margin:
    its logit less that of the likeliest wrong one; tokens: of the prompt.
    """
    found = torch.full((len(examples), len(MEASURES)), torch.nan)
    there = [i for i, example in enumerate(examples) if example is not None]
    if not there:
        return found
    batch = subject.batch([example for example in examples if example is not None], **form)
    logits = subject.logits_at(batch, steps_of(batch)[:, 0]).float().cpu()
    for row, at in enumerate(there):
        found[at, -1] = float(batch.mask[row].sum())
        example = batch.examples[row]
        if example.answer:
            found[at, :-1] = _read(
                logits[row], [batch.first_token_of(example, w) for w in (example.answer, *example.wrong)]
            )
    return found


def _read(logits: Float[Tensor, " vocabulary"], ids: Sequence[int]) -> Float[Tensor, "3"]:
    own, others = logits[ids[0]], logits[list(ids[1:])]
    right = own > others.max() if len(others) else logits.argmax() == ids[0]
    margin = own - others.max() if len(others) else own.new_tensor(torch.nan)
    return torch.stack([right.float(), own - logits.logsumexp(-1), margin])
