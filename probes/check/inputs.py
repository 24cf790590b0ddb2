"""The small prompts on which a subject's instruments are proved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ...data.example import Example, Segment
from ..model import vision_inputs
from ..model.subject import last_positions
from ..model.vision_inputs import PER_TOKEN

if TYPE_CHECKING:
    from ..model.subject import Subject


def small_inputs(subject: Subject) -> dict[str, Tensor]:
    """Two prompts of random tokens, none an image's, the second three tokens shorter and padded on the right.

    Of a model that reads no prompt without an image each has one of noise in front of its words.
    """
    words = torch.ones(subject.model.get_input_embeddings().weight.shape[0], dtype=torch.bool)
    words[[i for i in vision_inputs.media_ids(subject.model) if i < len(words)]] = False
    known = words.nonzero()[:, 0]
    ids = known[torch.randint(len(known), (2, 12), generator=torch.Generator().manual_seed(0))]
    inputs = {"input_ids": ids.to(subject.device)}
    if vision_inputs.required(subject.model):
        inputs = vision_inputs.made_up(subject.model, inputs["input_ids"])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, -3:] = 0
    if vision_inputs.has_prefix(subject.model):
        inputs["token_type_ids"] = (torch.arange(12) >= 6).long().expand(2, -1).to(subject.device)
    return inputs


def image_inputs(subject: Subject) -> dict[str, Tensor] | None:
    """A prompt with a picture of random colours, where the subject has a processor for it; else None."""
    if vision_inputs.placeholder_id(subject.model) is None or getattr(subject.processor, "image_token", None) is None:
        return None
    colours = torch.randint(256, (32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    segments = (Segment("image", Image.fromarray(colours.numpy())), Segment("text", " What is in this picture?"))
    inputs = subject.batch([Example("check", "check", segments)]).inputs
    return {name: tensor.to(subject.device) for name, tensor in inputs.items()}


def padded_left(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs with the padding behind each row moved before it."""
    mask = inputs["attention_mask"]
    places = torch.arange(mask.shape[1], device=mask.device)
    behind = mask.shape[1] - 1 - last_positions(mask, mask)
    index = (places - behind[:, None]) % mask.shape[1]
    return inputs | {name: inputs[name].gather(1, index) for name in PER_TOKEN if name in inputs}
