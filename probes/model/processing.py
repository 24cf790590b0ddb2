"""What the model's processor makes of an example's pictures, each set of pictures once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from PIL.Image import Image
from torch import Tensor

from ...data.errors import SubjectError, UserError
from .vision_inputs import PER_TOKEN, complete_processor

if TYPE_CHECKING:
    from .subject import Subject

# Bytes of pixels that are kept for the next prompt with the same pictures: 380 pictures of LLaVA 1.5.
MEMORY = 512 * 2**20
REFUSALS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, ArithmeticError)


class Processed(NamedTuple):
    """blocks: what the processor writes in place of each placeholder. pixels: what the vision tower takes.

    text, ids: the prompt that the pictures were first seen with, and the processor's ids for it.
    """

    blocks: list[str]
    pixels: dict[str, Tensor]
    text: str
    ids: list[int]


@dataclass
class _Memory:
    """Results by pictures and settings, the latest ones within MEMORY bytes."""

    kept: OrderedDict[str, Processed] = field(default_factory=OrderedDict)
    size: int = 0

    def add(self, key: str, result: Processed) -> None:
        self.kept[key] = result
        self.size += _bytes(result)
        while self.size > MEMORY:
            self.size -= _bytes(self.kept.popitem(last=False)[1])


_memories: WeakKeyDictionary[Any, _Memory] = WeakKeyDictionary()


def process(subject: Subject, text: str, pictures: Sequence[Image], where: str) -> Processed:
    """The processor on one prompt with a placeholder for each of its pictures (RGB); where: named in errors.

    The same pictures are not processed again, whatever text they stand in. UserError: pictures that the processor
    refuses. SubjectError: a processor that does not tell what it puts in their place.
    """
    complete_processor(subject.model, subject.processor)
    memory, key = _memories.setdefault(subject, _Memory()), _key(subject.processor, pictures)
    if key in memory.kept:
        memory.kept.move_to_end(key)
        return memory.kept[key]
    result = _call(subject, text, pictures, where)
    memory.add(key, result)
    return result


def _key(processor: Any, pictures: Sequence[Image]) -> str:
    """By content: a picture may be drawn on and a processor be set up anew between two batches."""
    digest = sha256(str(processor.to_dict()).encode())
    for picture in pictures:
        digest.update(str(picture.size).encode() + picture.tobytes())
    return digest.hexdigest()


def _bytes(result: Processed) -> int:
    return sum(tensor.nbytes for tensor in result.pixels.values())


def _call(subject: Subject, text: str, pictures: Sequence[Image], where: str) -> Processed:
    try:
        made = subject.processor(
            text=[text],
            images=[list(pictures)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
            text_kwargs={"add_special_tokens": False, "padding": False},
        )
    except REFUSALS as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{subject.name}: the processor refuses the images of {where}: {first_line}") from error
    replaced = made.get("text_replacement_offsets")
    if replaced is None:
        raise SubjectError(f"{subject.family}: its processor does not tell what it puts in place of an image")
    pixels = {name: v for name, v in made.items() if isinstance(v, Tensor) and name not in PER_TOKEN}
    return Processed([piece["replacement"] for piece in replaced[0]], pixels, text, made["input_ids"][0].tolist())


def joined(model: Any, several: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The pixels of several prompts as those of one batch: one behind the other, smaller ones padded with zeros, as
    the processors themselves pad tiles and pictures.
    """
    names = dict.fromkeys(name for pixels in several for name in pixels)
    shares = {name: [pixels[name] for pixels in several if name in pixels] for name in names}
    return {name: torch.cat(own, -1) if _is_strip(model, own[0]) else _stack(own) for name, own in shares.items()}


def _is_strip(model: Any, pixels: Tensor) -> bool:
    """Whether the patches of all pictures lie in one row of a patch's height (MiniCPM-V)."""
    patch = getattr(getattr(model.config, "vision_config", None), "patch_size", None)
    return pixels.ndim == 4 and pixels.shape[0] == 1 and pixels.shape[2] == patch


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    size = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if all(list(tensor.shape[1:]) == size for tensor in tensors):
        return torch.cat(list(tensors))
    padded = [tensor.new_zeros(len(tensor), *size) for tensor in tensors]
    for whole, tensor in zip(padded, tensors, strict=True):
        whole[tuple(slice(n) for n in tensor.shape)] = tensor
    return torch.cat(padded)
