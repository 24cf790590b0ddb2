"""A model with its insides exposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...data.errors import SubjectError, UserError
from ...data.example import Example
from . import anatomy, head, rotary, vision_inputs
from .edits import Block, active_edits
from .fingerprint import execution_device, weights_fingerprint, weights_state
from .naming import location_of, name_of
from .stack import DECODER, PROJECTOR, VISION, Stack, decoder_stack, projector_stack, vision_stack

if TYPE_CHECKING:
    import pandas as pd

    from ..prompts.batch import Batch

__all__ = ["Subject", "SubjectError"]

_NO_PROJECTOR = "there is no projector of two linear layers with an activation function between them"


class Subject:
    """Any Hugging Face causal language model or image-text-to-text model, opened.

    model: an instance in memory; its attention implementation is set to crosslens', which computes the same.
    processor: its processor or tokenizer; needed for `batch`, not for `capture` on ready inputs.
    decoder, vision, projector: its stacks of layers; layers, n_layers, n_heads, … are the decoder's.
    norm, unembed: `unembed(norm(x))` of the last residual equals the model's logits (scale and soft cap included).
    Raises SubjectError for families whose parts are not found.
    """

    def __init__(
        self, model: Any, processor: Any = None, *, name: str | None = None, revision: str | None = None
    ) -> None:
        self.model, self.processor = model, processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.family: str = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
        try:
            self._expose()
        except SubjectError as error:
            raise SubjectError(f"{self.family} cannot be opened: {error}") from error
        except Exception as error:  # a family never seen: whatever it lacks, its name and that are the answer
            raise SubjectError(f"{self.family} cannot be opened: {anatomy.first_line(error)}") from error
        self.name = name or name_of(model.config.name_or_path) or self.family
        self.location: str | None = location_of(model.config.name_or_path)  # what `verify` opens again
        self.opened: dict[str, Any] | None = None  # what `load` was called with, where it opened this
        self.revision = revision or getattr(model.config, "_commit_hash", None)

    def _expose(self) -> None:
        anatomy.refuse(self.model)
        self.model.eval()
        self.decoder: Stack = decoder_stack(self.model)
        self.layers: list[nn.Module] = self.decoder.layers
        self.n_layers: int = self.decoder.n_layers
        self.n_heads: int = self.decoder.n_heads
        self.n_kv_heads: int = self.decoder.n_kv_heads
        self.d_model: int = self.model.config.get_text_config().hidden_size
        self.norm: nn.Module = anatomy.final_norm(anatomy.find_decoder(self.model))
        self.unembed = head.unembedding(self.model)
        self.d_head: int = self.decoder.d_head
        self.tower_fault = self.projector_fault = ""  # what `check` finds wrong with the vision tower, the projector
        self._hashed: tuple[object, str] | None = None
        self.text_config: Any = self.decoder.config

    @property
    def vision(self) -> Stack | None:
        """The vision tower's layers, None without one. SubjectError: a tower that cannot be read, with the reason."""
        if self.tower_fault:
            raise SubjectError(f"{self.family}: its vision tower cannot be read: {self.tower_fault}")
        return self._vision

    @cached_property
    def _vision(self) -> Stack | None:
        return vision_stack(self.model)

    @property
    def projector(self) -> Stack | None:
        """The MLP between vision tower and decoder; None without, or where `check` found it to be something else."""
        return None if self.projector_fault else self._projector

    @cached_property
    def _projector(self) -> Stack | None:
        return projector_stack(self.model)

    def stack(self, name: str) -> Stack:
        """ "decoder", "vision" or "projector". UserError: another name, or a model without a vision tower, or without a
        projector that is an MLP.
        """
        stacks = {DECODER: lambda: self.decoder, VISION: lambda: self.vision, PROJECTOR: lambda: self.projector}
        stack = stacks.get(name, lambda: None)()
        if stack is None:
            known = {VISION: "it has its decoder alone", PROJECTOR: self.projector_fault or _NO_PROJECTOR}
            raise UserError(f"{self.name} has no stack {name!r}: {known.get(name, ', '.join(map(repr, stacks)))}")
        return stack

    @property
    def device(self) -> torch.device:
        """Where inputs go: the embeddings' device. Layers may lie on others (device_map)."""
        return execution_device(self.model.get_input_embeddings()) or self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def fingerprint(self) -> str:
        """sha256 over the weights' names, shapes and values; computed again when they have changed."""
        state = weights_state(self.model)
        if self._hashed is None or self._hashed[0] != state:
            self._hashed = state, weights_fingerprint(self.model)
        return self._hashed[1]

    @property
    def active_edits(self) -> tuple[Block, ...]:
        """The open blocks of `tracing` that can change a number of this model, repairs among them; outermost first."""
        return active_edits(self.model)

    def W_O(self, layer: int) -> Float[Tensor, "h d_head d"]:
        """The output projection of a layer's heads; biases are not part of it."""
        return self.decoder.W_O(layer)

    @property
    def W_U(self) -> Float[Tensor, "vocab d"]:
        """The unembedding, logit scale included: logits before a soft cap are W_U · norm(x) + b_U."""
        return head.unembedding_weight(self.model)[0]

    @property
    def b_U(self) -> Float[Tensor, "vocab"] | None:
        """The head's bias, scaled alike; None in most families."""
        return head.unembedding_weight(self.model)[1]

    def batch(
        self,
        examples: Sequence[Example | str],
        *,
        template: str = "raw",
        bos: bool | None = None,
        padding: str = "right",
    ) -> Batch:
        """Tokenise examples into one padded batch with roles and marks; see `Batch`.

        template: "raw" or "chat". bos: whether a BOS comes first, None for what the tokenizer does by itself.
        UserError: a BOS or a template that does not exist, a text that the template changes, a mark without a token.
        """
        from ..prompts.batch import make_batch

        return make_batch(self, examples, template=template, bos=bos, padding=padding)

    def forward(
        self, inputs: Mapping[str, Any] | Batch, *, keep: int | Tensor = 1, gradient: bool = False
    ) -> Float[Tensor, "b n vocab"]:
        """Logits at `keep` (a count from the end, 0 for all, or positions shared by the batch).

        gradient: whether autograd follows. Whole forwards go through here, but for `generate`'s and the eager one that
        `check` compares with.
        """
        arguments = self.prepare(inputs)
        asked = {"logits_to_keep": keep} if self._keeps_logits else {}
        with torch.set_grad_enabled(gradient), vision_inputs.counted(self.model, arguments):
            logits = self.model(**arguments, use_cache=False, **asked).logits
        if asked:
            return logits
        return logits[:, keep.to(logits.device) if isinstance(keep, Tensor) else slice(-keep or None, None)]

    def last_logits(self, inputs: Mapping[str, Any] | Batch) -> Float[Tensor, "b vocab"]:
        """Logits at each example's last real position."""
        arguments = self.prepare(inputs)
        return self.logits_at(inputs, last_positions(arguments["input_ids"], arguments.get("attention_mask")))

    def logits_at(
        self, inputs: Mapping[str, Any] | Batch, places: Int[Tensor, " b"], *, gradient: bool = False
    ) -> Float[Tensor, "b vocab"]:
        """Logits behind one position of each example, counted with the padding; gradient: with their graph."""
        columns, where = places.unique(return_inverse=True)
        logits = self.forward(inputs, keep=columns, gradient=gradient)
        with torch.set_grad_enabled(gradient):
            return logits[torch.arange(len(places), device=logits.device), where.to(logits.device)]

    def prepare(self, inputs: Mapping[str, Any] | Batch) -> dict[str, Any]:
        """Model arguments on the model's device, with the positions that left padding needs and an image's token types.

        UserError: placeholders without pixels, or another input missing without which the model runs wrongly; several
        prompts a row, or prompts on both sides of a switch of rotary factors.
        """
        arguments = dict(inputs if isinstance(inputs, Mapping) else inputs.inputs)
        arguments = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in arguments.items()}
        rotary.refuse_foreign(self.text_config, arguments)
        vision_inputs.complete(self.model, arguments)
        mask = arguments.get("attention_mask")
        if mask is None and arguments.get("position_ids") is not None and "input_ids" in arguments:
            # Without a mask, transformers takes a gap between positions for the start of another prompt in the row.
            arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
        own = None if "position_ids" in arguments else vision_inputs.positions_of_images(self.model, arguments)
        if own is not None:
            arguments["position_ids"] = own
        if mask is not None and "position_ids" not in arguments and self._needs_positions(mask, arguments):
            arguments["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return arguments

    @cached_property
    def _keeps_logits(self) -> bool:
        """Whether the model computes some logits alone; of the others all are computed, and those asked for taken."""
        return "logits_to_keep" in signature(self.model.forward).parameters

    def _needs_positions(self, mask: Tensor, arguments: Mapping[str, Any]) -> bool:
        """Families with image grids compute their own, of texts alone without a look at what stands before them."""
        behind_padding = arguments.get("pixel_values") is None and not bool(mask[:, 0].all())
        return self._counts_positions or behind_padding

    @cached_property
    def _counts_positions(self) -> bool:
        """Whether the model takes plain positions."""
        inner = self.model.base_model
        return not any(hasattr(module, "get_rope_index") for module in (self.model, inner))

    def __repr__(self) -> str:
        dtype, tower = str(self.dtype).removeprefix("torch."), anatomy.find_tower(self.model)
        vision = "" if tower is None else f", reads images with {type(tower).__name__}"
        return f"Subject({self.name}: {self.n_layers} layers × {self.n_heads} heads, {dtype}, {self.device}{vision})"

    def check(self) -> pd.DataFrame:
        """Prove the instruments on two small examples; SubjectError names what fails. See check.py."""
        from ..check.subject_checks import check

        refuse_under_edit(self, "the check of the instruments")
        try:
            return check(self)
        except (SubjectError, UserError):
            raise
        except Exception as error:  # the proofs run what they do not know: a family that breaks them is refused
            told = anatomy.first_line(error)
            raise SubjectError(
                f"{self.family} ({self.name}): a forward of the check fails, so nothing is proved: {told}"
            ) from error


def refuse_under_edit(subject: Subject, what: str) -> None:
    """UserError where `what` would take an edited model for the plain one."""
    if subject.active_edits:
        raise UserError(f"{what} needs {subject.name} as it is, but an edit or a repair acts: close its block first")


def last_positions(input_ids: Int[Tensor, "b p"], mask: Tensor | None) -> Tensor:
    """The last real position of each row, Int[b], on either padding side."""
    if mask is None:
        return torch.full((input_ids.shape[0],), input_ids.shape[1] - 1, device=input_ids.device)
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask.long() * places).argmax(-1)
