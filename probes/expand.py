"""Examples with images to tokens: the model's own processor says how many tokens an image is, and makes its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL.Image import Image
from torch import Tensor

from ..data.example import Example, UserError
from ..data.images import rgb
from . import boxes, images
from .anatomy import SubjectError
from .encode import Encoded, Span, label, render

if TYPE_CHECKING:
    from .subject import Subject


class Prompt(NamedTuple):
    """A prompt as text: before the processor with one placeholder per image, behind it with as many as tokens."""

    text: str
    roles: list[Span]
    marks: list[Span]


def expand(
    subject: Subject, examples: Sequence[Example], template: str, bos: bool
) -> tuple[list[Encoded], dict[str, Tensor]]:
    """Tokens with roles of every example (each has an image), and the images of all as the model takes them.

    Image positions get the role "image"; other tokens that the processor puts around them are "special".
    UserError: an image or a prompt that the processor refuses. SubjectError: a processor that cannot be followed.
    """
    holder = getattr(subject.processor, "image_token", None)
    if holder is None:
        raise UserError(f"{subject.name} was opened without a processor for images: Subject(model, processor)")
    prompts = [Prompt(*render(subject, example, template)) for example in examples]
    for example, prompt in zip(examples, prompts, strict=True):
        _refuse_stray(example, prompt, holder)
    made = _process(subject, examples, [prompt.text for prompt in prompts])
    replaced = made.pop("text_replacement_offsets", None)
    if replaced is None:
        raise SubjectError(f"{subject.family}: its processor does not tell what it puts in place of an image")
    mask = made["attention_mask"].bool()
    pixels = {k: v for k, v in made.items() if isinstance(v, Tensor) and k not in _PER_TOKEN}
    encoded = []
    for i, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
        blocks = [piece["replacement"] for piece in replaced[i]]
        one = _align(subject, example, prompt, blocks, made["input_ids"][i][mask[i]].tolist(), bos)
        encoded.append(boxes.mark(subject, example, one, pixels, sum(map(_n_images, examples[:i]))))
    return encoded, pixels


_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")


def _pictures(example: Example) -> list[Image]:
    """The example's images as RGB; UserError for what is not a picture."""
    contents = [segment.content for segment in example.segments if not isinstance(segment.content, str)]
    for content in contents:
        if not isinstance(content, Image):
            raise UserError(
                f"example {example.id}: a segment holds {type(content).__name__}, text or a PIL image is needed "
                "(crosslens.data.images.open_image reads files)"
            )
    return [rgb(content, f"example {example.id}: the image") for content in contents if isinstance(content, Image)]


def _n_images(example: Example) -> int:
    return sum(not isinstance(segment.content, str) for segment in example.segments)


def _refuse_stray(example: Example, prompt: Prompt, holder: str) -> None:
    """A placeholder in the text would take another image's place."""
    if prompt.text.count(holder) != _n_images(example):
        raise UserError(
            f"example {example.id}: {prompt.text.count(holder)} × {holder} in the prompt for {_n_images(example)} "
            "image(s): leave the placeholder out of texts, an image is a segment of its own"
        )


def _process(subject: Subject, examples: Sequence[Example], texts: list[str]) -> dict[str, Any]:
    """The processor on all texts and images at once. Its padding is taken off again; ours is put on in one place."""
    if subject.tokenizer.pad_token_id is None and len(texts) > 1:
        raise UserError(f"{subject.name}: the tokenizer has no pad token, so images can only be run one by one")
    try:
        made = subject.processor(
            text=texts,
            images=[_pictures(example) for example in examples],
            return_tensors="pt",
            return_text_replacement_offsets=True,
            text_kwargs={"add_special_tokens": False, "padding": len(texts) > 1, "return_attention_mask": True},
        )
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ArithmeticError) as error:
        ids = ", ".join(example.id for example in examples[:3]) + (" …" if len(examples) > 3 else "")
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{subject.name}: the processor refuses the images of {ids}: {first_line}") from error
    return dict(made)


def _align(subject: Subject, example: Example, prompt: Prompt, blocks: list[str], ids: list[int], bos: bool) -> Encoded:
    """Roles and marks for the processor's ids, by tokenising the text that it must have made of the prompt."""
    holder, first_id = subject.processor.image_token, subject.tokenizer.bos_token_id
    for laid_out in (prompt, _with_inner_bos(subject, prompt, holder)):
        long, shown = _fill(laid_out, holder, blocks)
        tokenised = subject.tokenizer(long.text, add_special_tokens=False, return_offsets_mapping=True)
        if list(tokenised["input_ids"]) == ids:
            break
    else:
        raise SubjectError(f"{subject.family}: its processor changes the text of example {example.id} beside the image")
    offsets = list(tokenised["offset_mapping"])
    if laid_out is not prompt and (not bos or any(role.name == "answer" for role in prompt.roles)):
        raise UserError(
            f"{subject.family}: its processor puts a BOS behind the image and a newline behind the prompt; "
            "leave out the answer, and run it with BOS"
        )
    if bos and first_id is not None and first_id not in ids:
        ids, offsets = [first_id, *ids], [(0, 0), *offsets]
    return _with_image(subject, label(subject, long.text, ids, offsets, long.roles, long.marks), offsets, shown)


def _with_inner_bos(subject: Subject, prompt: Prompt, holder: str) -> Prompt:
    """PaliGemma's layout: a BOS behind the last image, a newline behind the prompt."""
    at, bos = prompt.text.rfind(holder) + len(holder), subject.tokenizer.bos_token or ""
    return Prompt(
        prompt.text[:at] + bos + prompt.text[at:] + "\n",
        [_shifted(span, at, len(bos)) for span in prompt.roles],
        [_shifted(span, at, len(bos)) for span in prompt.marks],
    )


def _fill(prompt: Prompt, holder: str, blocks: list[str]) -> tuple[Prompt, list[Span]]:
    """The prompt with every placeholder replaced by its block, and where the blocks are."""
    text, roles, marks, shown = prompt.text, prompt.roles, prompt.marks, []
    at = 0
    for block in blocks:
        start = text.index(holder, at)
        end, more = start + len(holder), len(block) - len(holder)
        text = text[:start] + block + text[end:]
        roles, marks = [_shifted(s, end, more) for s in roles], [_shifted(s, end, more) for s in marks]
        at = start + len(block)
        shown.append(Span(start, at, "image"))
    return Prompt(text, roles, marks), shown


def _shifted(span: Span, at: int, by: int) -> Span:
    """A span where `by` characters were put in at `at`; a span that ends there does not grow."""
    return Span(span.start + by * (span.start >= at), span.end + by * (span.end > at), span.name)


def _with_image(subject: Subject, encoded: Encoded, offsets: Sequence[tuple[int, int]], shown: list[Span]) -> Encoded:
    """The role "image" where the image is; what stands around it within its block is "special"."""
    image = images.placeholder_id(subject.model)
    if image not in encoded.ids:
        raise SubjectError(
            f"{subject.name}: the processor writes no token {image}, which the model takes for the image: "
            "processor and model do not belong together"
        )

    def role(i: int) -> str:
        if encoded.ids[i] == image:
            return "image"
        inside = any(block.start <= offsets[i][0] < block.end for block in shown) and offsets[i][1] > offsets[i][0]
        return "special" if inside else encoded.roles[i]

    return replace(encoded, roles=[role(i) for i in range(len(encoded.ids))])
