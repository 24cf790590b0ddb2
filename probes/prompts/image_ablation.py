"""A prompt without its image: its tokens dropped, or read by nobody outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...data.errors import UserError
from ..model import vision_inputs
from ..model.attention import AttentionCall, Edit
from ..model.vision_inputs import PER_TOKEN

if TYPE_CHECKING:
    from ..model.subject import Subject
    from .batch import Batch


def image_columns(subject: Subject, inputs: Mapping[str, Any], ids: Sequence[str] = ()) -> Bool[Tensor, "b p"]:
    """Where the images are, all images of a prompt together.

    UserError: a model without an image token, or a prompt without an image (named by `ids` where they are given).
    """
    if vision_inputs.placeholder_id(subject.model) is None:
        raise UserError(f"{subject.name} has no image token: a vision-language model is needed")
    shown = vision_inputs.image_positions(subject.model, inputs["input_ids"]) & real_positions(inputs)
    bare = (~shown.any(1)).nonzero()[:, 0].tolist()
    if bare:
        name = f"example {ids[bare[0]]}" if ids else f"prompt {bare[0]}"
        raise UserError(f"{name} has no image: what the image does to the heads needs one in every prompt")
    return shown


def real_positions(inputs: Mapping[str, Any]) -> Bool[Tensor, "b p"]:
    """The positions that are no padding."""
    mask = inputs.get("attention_mask")
    ids = inputs["input_ids"]
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(ids.device).bool()


def image_block(subject: Subject, inputs: Mapping[str, Any]) -> Bool[Tensor, "b p"]:
    """The images' tokens together with the special tokens of the processor that frame them."""
    ids = inputs["input_ids"]
    block = image_columns(subject, inputs)
    frame = torch.isin(ids, torch.tensor(sorted(_frame_ids(subject)), device=ids.device, dtype=ids.dtype))
    while True:
        beside = block.roll(1, 1).index_fill(1, ids.new_tensor([0]), False)
        beside |= block.roll(-1, 1).index_fill(1, ids.new_tensor([ids.shape[1] - 1]), False)
        grown = block | (frame & beside)
        if torch.equal(grown, block):
            return block
        block = grown


def _frame_ids(subject: Subject) -> set[int]:
    """Ids of the config that have to do with images, and of the processor's tokens that are named so."""
    found = set(vision_inputs.media_ids(subject.model))
    for name, value in vars(subject.processor).items() if subject.processor is not None else ():
        if name.endswith(("_token", "_tag")) and any(word in name for word in ("image", "img", "vision", "boi", "eoi")):
            ids = subject.tokenizer.encode(str(value), add_special_tokens=False)
            found |= set(ids) - {subject.tokenizer.unk_token_id} if len(ids) == 1 else set()
    return found


def drop_image(subject: Subject, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Int[Tensor, "b n"]]:
    """The inputs without images and frames, padded on the right; the texts' positions move up.

    Also the place in `inputs` of every position that stayed, -1 at padding. UserError: nothing is left of a prompt.
    """
    kept = real_positions(inputs) & ~image_block(subject, inputs)
    counts = kept.sum(1)
    if not bool(counts.all()):
        raise UserError(f"prompt {int(counts.argmin())} holds nothing but its image: without it nothing is left to run")
    places = (~kept).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
    there = torch.arange(places.shape[1], device=places.device) < counts[:, None]
    blind = {name: inputs[name].to(places.device).gather(1, places) * there for name in PER_TOKEN if name in inputs}
    blind["attention_mask"] = there.to(inputs["input_ids"].dtype)
    return blind, places.masked_fill(~there, -1)


def hide_image(image: Bool[Tensor, "b p"]) -> Edit:
    """For every layer: no position outside of the images reads them, so positions stay as they are."""

    def edit(call: AttentionCall) -> AttentionCall:
        shown = image.to(call.query.device)
        return call.edited(mask=call.allowed() & ~(shown[:, None, None] & ~shown[:, None, :, None]))

    return edit


def predicting(batch: Batch) -> Int[Tensor, "b n"]:
    """The positions that predict each example's answer tokens, -1 behind them.

    That is the position before each token of the answer; the last position where a prompt ends open.
    UserError: the answer follows directly on the image.
    """
    answer = batch.where("answer")
    open_ended = ~answer.any(1)
    answer = answer.clone()
    lead = answer.roll(-1, 1).index_fill(1, torch.tensor([answer.shape[1] - 1]), False)
    lead[open_ended, batch.last[open_ended]] = True
    blocked = lead & (batch.where("image") | batch.where("image_separator"))
    if bool(blocked.any()):
        name = batch.example_ids[int(blocked.any(1).nonzero()[0])]
        raise UserError(f"example {name}: the answer follows directly on the image; put some text between them")
    counts = lead.sum(1)
    places = (~lead).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
    return places.masked_fill(torch.arange(places.shape[1]) >= counts[:, None], -1)


def moved(places: Int[Tensor, "b n"], wanted: Int[Tensor, "b m"]) -> Int[Tensor, "b m"]:
    """Where positions of the whole prompt lie in the one without image: `places` as from `drop_image`; -1 stays."""
    match = places[:, None].to(wanted.device) == wanted[:, :, None]
    if not bool(match.any(2)[wanted >= 0].all()):
        raise ValueError("a wanted position was dropped with the image")
    return match.int().argmax(2).masked_fill(wanted < 0, -1)
