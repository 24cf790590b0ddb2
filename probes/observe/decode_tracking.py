"""Following a generation: which columns its prompt's images have, from the prompt through every decoding step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from ...data.errors import UserError
from ..model import vision_inputs
from ..model.attention import AttentionCall
from ..model.subject import last_positions
from ..prompts.image_ablation import image_columns, real_positions

if TYPE_CHECKING:
    from ..model.subject import Subject


@dataclass(eq=False)
class Shown:
    """What the model has been shown so far, kept up to date while `following`.

    image, real: Bool[b, n] over all positions so far, padding included. prompt: the prompt is being read, not a later
    token. inputs: the arguments of the prompt's forward. asleep: a forward of our own runs, nothing is followed.
    needs_image: prompts without one are refused; else `image` may be empty.
    """

    image: Bool[Tensor, "b n"] = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    real: Bool[Tensor, "b n"] = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    prompt: bool = False
    asleep: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    needs_image: bool = True

    @property
    def behind(self) -> Bool[Tensor, "b n"]:
        """The real positions behind the last image: the question, and everything that is generated."""
        return behind_image(self.image, self.real)

    @property
    def last(self) -> Tensor:
        """The last real position, Int[b]."""
        return last_positions(self.real, self.real)

    def offset(self, call: AttentionCall) -> int:
        """The position of the call's first key: layers with a window forget the first ones."""
        return max(0, self.image.shape[1] - call.key.shape[2])

    def begin(self, subject: Subject, ids: Tensor | None, arguments: dict[str, Any]) -> None:
        """One forward of the model begins."""
        if ids is None:
            raise UserError("a repair needs input_ids: where an image is cannot be told from inputs_embeds")
        mask = arguments.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            raise UserError("a repair needs a mask [batch, positions]: generate with the default (dynamic) cache")
        cache = arguments.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        image = vision_inputs.image_positions(subject.model, ids)
        real = torch.ones_like(image) if mask is None else mask[:, past : past + ids.shape[1]].bool().to(ids.device)
        self.prompt = past == 0
        if self.prompt:
            self.inputs = {"input_ids": ids, **arguments}
            if self.needs_image:
                image_columns(subject, self.inputs)
            self.image, self.real = image & real, real_positions(self.inputs)
            return
        if self.image.shape[1] < past or len(self.image) != len(ids):
            raise UserError("the repair began within a generation: open it before the prompt is read")
        self.inputs = {}
        self.image = torch.cat([self.image[:, :past], image], 1)
        self.real = torch.cat([self.real[:, :past], real], 1)


def behind_image(image: Bool[Tensor, "b n"], real: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """The real positions behind the last image."""
    return real & (image.flip(1).cumsum(1).flip(1) == 0)


@contextmanager
def following(
    subject: Subject, on_prompt: Callable[[Shown], Any] = lambda shown: None, *, needs_image: bool = True
) -> Iterator[Shown]:
    """During the block every forward of the subject's model is followed, through `generate` with its cache as well.

    on_prompt: called before a prompt is read; forwards that it runs are not followed. UserError: where an image is
    needed, a prompt or a model without one; another repair around this one.
    """
    if getattr(subject.model, "_followed", False):
        raise UserError("one repair at a time: close the one around this one first")
    shown = Shown(needs_image=needs_image)

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if shown.asleep:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        shown.begin(subject, ids, {k: v for k, v in kwargs.items() if k != "input_ids"})
        if shown.prompt:
            with _asleep(subject, shown):
                on_prompt(shown)

    handle = subject.model.register_forward_pre_hook(begin, with_kwargs=True)
    subject.model._followed = True
    try:
        yield shown
    finally:
        handle.remove()
        del subject.model._followed


@contextmanager
def _asleep(subject: Subject, shown: Shown) -> Iterator[None]:
    """A forward of our own: not followed, and what it leaves behind in the model (Qwen's rope_deltas) put back."""
    inner = getattr(subject.model, "model", None)
    kept = getattr(inner, "rope_deltas", None)
    shown.asleep = True
    try:
        yield
    finally:
        shown.asleep = False
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = kept  # pyright: ignore[reportOptionalMemberAccess]
