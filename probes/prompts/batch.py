"""From examples to one padded batch in which every position has a role and some have names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from ...data.errors import UserError
from ...data.example import ROLES, Example, Segment
from ...data.tokens import BEFORE, ids_behind
from ..model.vision_inputs import token_kinds
from .bos import conditions
from .geometry.views import THUMBNAIL, Geometry
from .image_prompts import expand
from .text_prompts import Encoded, encode_text, has_image

if TYPE_CHECKING:
    from ..model.subject import Subject


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples as the model takes them.

    inputs: the plain dict for the Hugging Face model. roles: Int[b, p], indices into ROLES.
    marks: name -> Bool[b, p], overlapping names from character spans or boxes. form: the template, BOS and padding
    that it was made with, so that `subject.batch(others, **batch.form)` makes one like it. texts: the prompts as they
    were tokenised. geometry: where each example's image tokens lie on its pictures; its positions begin at `start`.
    """

    examples: tuple[Example, ...]
    inputs: dict[str, Any]
    roles: Int[Tensor, "b p"]
    marks: dict[str, Bool[Tensor, "b p"]]
    tokenizer: Any = field(repr=False, default=None)
    form: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = field(repr=False, default=())
    geometry: tuple[Geometry, ...] = field(repr=False, default=())

    def __repr__(self) -> str:
        roles = [role for role in ROLES if role != "pad" and bool(self.where(role).any())]
        n, positions = self.roles.shape
        marks = f"; marks {', '.join(self.marks)}" if self.marks else ""
        return f"Batch({n} examples × {positions} positions; roles {', '.join(roles)}{marks})"

    @property
    def example_ids(self) -> list[str]:
        return [example.id for example in self.examples]

    @property
    def mask(self) -> Bool[Tensor, "b p"]:
        """The real positions."""
        return self.roles != ROLES.index("pad")

    @property
    def start(self) -> Tensor:
        """The first real position of each example, Int[b]."""
        return self.mask.int().argmax(1)

    @property
    def last(self) -> Tensor:
        """The last real position of each example, Int[b]."""
        return self.start + self.mask.sum(1) - 1

    @property
    def final(self) -> Bool[Tensor, "b p"]:
        """The last real position of each example, as a mask."""
        return mark_last(self.mask, self.last)

    def where(self, name: str) -> Bool[Tensor, "b p"]:
        """The positions of a role, of a mark, or "patches": the image without the thumbnail that lies beside tiles.

        KeyError names what there is.
        """
        if name in ROLES:
            return self.roles == ROLES.index(name)
        if name == "patches":
            small = self.marks.get(THUMBNAIL)
            return self.where("image") if small is None else self.where("image") & ~small
        if name not in self.marks:
            raise KeyError(f"no role or mark {name!r}: roles are {', '.join(ROLES)}; marks {', '.join(self.marks)}")
        return self.marks[name]

    def aligned(self, tensor: Shaped[Tensor, "b p ..."]) -> Shaped[Tensor, "b p ..."]:
        """The same tensor with every example's first real position at 0, padding behind: both paddings agree."""
        length = tensor.shape[1]
        index = (torch.arange(length, device=tensor.device) + self.start.to(tensor.device)[:, None]) % length
        return tensor[torch.arange(tensor.shape[0], device=tensor.device)[:, None], index]

    @property
    def answers(self) -> Tensor:
        """First token ids of the answers, Int[b]; UserError where one is missing, or begins as the first wrong one does
        (`first_difference` puts what they share behind the prompt).
        """
        return torch.tensor([self._told_apart(e)[0] for e in self.examples])

    @property
    def wrong(self) -> Tensor:
        """First token ids of the first wrong answers, Int[b]; UserError as in `answers`, or where one is missing."""
        return torch.tensor([self._told_apart(e, wrong=True)[1] for e in self.examples])

    def _told_apart(self, example: Example, wrong: bool = False) -> tuple[int, int]:
        """First tokens of the answer and of the first wrong one, -1 where none is needed and there is none."""
        right = self.first_token_of(example, example.answer)
        if not example.wrong and not wrong:
            return right, -1
        other = self.first_token_of(example, example.wrong[0] if example.wrong else "")
        if right == other:
            raise UserError(
                f"example {example.id}: {example.answer!r} and {example.wrong[0]!r} begin with the same token: "
                "examples = first_difference(subject, examples) puts what they share behind the prompt"
            )
        return right, other

    @property
    def option_ids(self) -> Tensor:
        """First token ids of the answer and of every wrong answer, Int[b, options]; padded with the answer's.

        UserError where two of them begin with the same token.
        """
        ids = [[self.first_token_of(e, word) for word in (e.answer, *e.wrong)] for e in self.examples]
        for example, own in zip(self.examples, ids, strict=True):
            if len(set(own)) < len({example.answer, *example.wrong}):
                said = ", ".join(map(repr, (example.answer, *example.wrong)))
                raise UserError(f"example {example.id}: two of {said} begin with the same token: choose other words")
        most = max(map(len, ids))
        return torch.tensor([own + own[:1] * (most - len(own)) for own in ids])

    def first_token_of(self, example: Example, word: str) -> int:
        """The id of an answer's first token behind its prompt. UserError: it is empty, or changes the prompt's own."""
        ids = self.ids_of(example, word)
        if not ids:
            raise UserError(f"example {example.id} has an empty answer: a task with answers is needed")
        return ids[0]

    @property
    def options(self) -> Tensor:
        """Which of `option_ids` are an example's own, Bool[b, options]."""
        counts = torch.tensor([1 + len(e.wrong) for e in self.examples])
        return torch.arange(int(counts.max())) < counts[:, None]

    def token_of(self, example: Example, word: str) -> int:
        """The id of an answer where it stands behind its prompt. UserError where it is not a single token."""
        ids = self.ids_of(example, word)
        if len(ids) != 1:
            raise UserError(
                f"example {example.id}: the answer {word!r} is {len(ids)} tokens for this tokenizer and one is "
                "needed; choose another word or another task"
            )
        return ids[0]

    def ids_of(self, example: Example, word: str) -> list[int]:
        """The ids of an answer where it stands behind its prompt. UserError where it changes the prompt's own."""
        text = self.texts[self.examples.index(example)] if self.texts else ""
        ids = ids_behind(self.tokenizer, text or BEFORE, word)
        if ids is None:
            raise UserError(
                f"example {example.id}: the answer {word!r} joins the end of its prompt {text[-20:]!r} into other "
                "tokens; end the prompt elsewhere (a space belongs to the answer)"
            )
        return ids


def mark_last(mask: Bool[Tensor, "b p"], last: Int[Tensor, " b"]) -> Bool[Tensor, "b p"]:
    """A mask of `mask`'s shape and device that is true at `last` alone."""
    return torch.zeros_like(mask).scatter(1, last[:, None].to(mask.device), True)


def make_batch(
    subject: Subject, examples: Sequence[Example | str], *, template: str, bos: bool | None, padding: str
) -> Batch:
    """See `Subject.batch`. UserError: no examples or one text in place of a list, no tokenizer, no such BOS, a prompt
    longer than the context.
    """
    if isinstance(examples, str):
        raise UserError(f"{examples[:40]!r} is one text: give a list of prompts, subject.batch([prompt])")
    if not examples:
        raise UserError("no examples to run: the task is empty")
    if subject.tokenizer is None:
        raise UserError(f"{subject.name} was opened without a tokenizer: Subject(model, tokenizer)")
    if padding not in ("left", "right"):
        raise ValueError(f"padding is 'left' or 'right', not {padding!r}")
    whole = tuple(as_example(example, i) for i, example in enumerate(examples))
    (with_bos,) = conditions(subject, template, None if bos is None else (bos,))
    encoded, pixels = _encode_all(subject, whole, template, with_bos)
    _refuse_long(subject, whole, encoded)
    batch = _pad(subject, whole, encoded, padding)
    batch.inputs.update(pixels)
    return replace(batch, form={"template": template, "bos": with_bos, "padding": padding})


def one_by_one(subject: Subject, batch: Batch) -> list[Batch]:
    """A batch of each example alone: where every example has other variants to run, none waits for its neighbours'."""
    return [subject.batch([example], **batch.form) for example in batch.examples]


def corrupt_twins(subject: Subject, batch: Batch) -> Batch:
    """The corrupt twins of a batch's examples in the same form. UserError: an example without one, or a longer one."""
    for example in batch.examples:
        if example.corrupt is None:
            raise UserError(f"example {example.id} has no corrupt twin: circuits need a task with twins, such as ioi")
    twins = subject.batch([e.corrupt for e in batch.examples if e.corrupt], **batch.form)
    lengths = zip(batch.example_ids, batch.mask.sum(1).tolist(), twins.mask.sum(1).tolist(), strict=True)
    for name, ours, theirs in lengths:
        if ours != theirs:
            raise UserError(f"example {name}: {ours} tokens, its corrupt twin {theirs}; positions would not correspond")
    return twins


def _encode_all(
    subject: Subject, examples: Sequence[Example], template: str, bos: bool
) -> tuple[list[Encoded], dict[str, Any]]:
    """Every example's tokens; and the pixels of those with images, processed together."""
    seeing = [example for example in examples if has_image(example)]
    shown, pixels = expand(subject, seeing, template, bos) if seeing else ([], {})
    ready = iter(shown)
    return [next(ready) if has_image(e) else encode_text(subject, e, template, bos) for e in examples], pixels


def as_example(example: Example | str, index: int = 0) -> Example:
    """A plain string is an example with one text segment."""
    if isinstance(example, Example):
        return example
    return Example(id=f"prompt-{index}", group=f"prompt-{index}", segments=(Segment("text", example),))


def _refuse_long(subject: Subject, examples: Sequence[Example], encoded: Sequence[Encoded]) -> None:
    limit = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None)
    for example, item in zip(examples, encoded, strict=True):
        if limit is not None and len(item.ids) > limit:
            raise UserError(
                f"example {example.id} has {len(item.ids)} tokens, {subject.name} reads at most {limit}: shorten it"
            )
        if not item.ids:
            raise UserError(f"example {example.id} is empty: a prompt needs at least one token")


def _pad(subject: Subject, examples: tuple[Example, ...], encoded: Sequence[Encoded], padding: str) -> Batch:
    length = max(len(item.ids) for item in encoded)
    pad_id = subject.tokenizer.pad_token_id
    pad_id = (subject.tokenizer.eos_token_id or 0) if pad_id is None else pad_id

    def rows(values: Sequence[Sequence[Any]], fill: Any, dtype: torch.dtype) -> Tensor:
        out = torch.full((len(values), length), fill, dtype=dtype)
        for row, value in zip(out, values, strict=True):
            row[slice(length - len(value), length) if padding == "left" else slice(len(value))] = torch.tensor(
                value, dtype=dtype
            )
        return out

    names = {name: None for item in encoded for name in item.marks}
    empty = [[False] * len(item.ids) for item in encoded]
    kinds = token_kinds(subject.model, any("image" in item.roles for item in encoded))
    return Batch(
        examples,
        {
            "input_ids": rows([item.ids for item in encoded], pad_id, torch.long),
            "attention_mask": rows([[1] * len(item.ids) for item in encoded], 0, torch.long),
            **{
                name: rows([[int(role == kind) for role in item.roles] for item in encoded], 0, torch.long)
                for name, kind in kinds.items()
            },
        },
        rows([[ROLES.index(role) for role in item.roles] for item in encoded], 0, torch.long),
        {
            name: rows([item.marks.get(name, empty[i]) for i, item in enumerate(encoded)], False, torch.bool)
            for name in names
        },
        subject.tokenizer,
        texts=tuple(item.text for item in encoded),
        geometry=tuple(item.geometry for item in encoded),
    )
