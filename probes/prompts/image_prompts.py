"""Examples with images to tokens: the model's own processor says how many tokens an image is, and makes its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from PIL.Image import Image
from torch import Tensor

from ...data.errors import SubjectError, UserError
from ...data.example import Example
from ...data.images import rgb
from ..model import vision_inputs
from ..model.processing import Processed, joined, process
from . import boxes
from .geometry.find import find
from .geometry.seen import Seen
from .geometry.views import THUMBNAIL, Geometry
from .text_prompts import Encoded, Span, label, render

if TYPE_CHECKING:
    from ..model.subject import Subject


# The role of tokens between the parts of a picture.
SEPARATOR = "image_separator"


class Prompt(NamedTuple):
    """A prompt as text: before the processor with one placeholder per image, behind it with as many as tokens."""

    text: str
    roles: list[Span]
    marks: list[Span]


def expand(
    subject: Subject, examples: Sequence[Example], template: str, bos: bool
) -> tuple[list[Encoded], dict[str, Tensor]]:
    """Tokens with roles of every example (each has an image), and the images of all as the model takes them.

    Role "image": the placeholders that the model fills with a part of the picture; of these, "thumbnail" marks the
    whole picture beside its tiles. Role "image_separator": what stands between them, tokens that the processor writes
    (rows and columns of tiles, line breaks) or placeholders that the model fills with its learned newline (LLaVA-NeXT).
    Tokens that frame a picture are "special", text that merged with them as well.
    An image stands in the family's own frame (<|vision_start|> … <|vision_end|>), whether a chat template writes it or
    the prompt is raw.
    UserError: an image or a prompt that the processor refuses. SubjectError: a processor that cannot be followed.
    """
    if getattr(subject.processor, "image_token", None) is None:
        raise UserError(_no_images(subject))
    encoded, pixels = zip(*(_expand(subject, example, template, bos) for example in examples), strict=True)
    return list(encoded), joined(subject.model, pixels)


def _no_images(subject: Subject) -> str:
    """Why a subject reads no images, and what to do."""
    if vision_inputs.placeholder_id(subject.model) is not None:
        return f"{subject.name} was opened without a processor for images: Subject(model, processor)"
    return (
        f"{subject.name} is a language model and reads no images: name a vision-language model, such as "
        "--subject scenes, or a task of text alone"
    )


def _expand(subject: Subject, example: Example, template: str, bos: bool) -> tuple[Encoded, dict[str, Tensor]]:
    prompt = Prompt(*render(subject, example, template))
    _refuse_stray(subject, example, prompt.text)
    pictures = _pictures(example)
    processed = process(subject, prompt.text, pictures, example.id)
    inner_bos = _has_inner_bos(subject, processed, example.id)
    if inner_bos and (not bos or any(role.name == "answer" for role in prompt.roles)):
        raise UserError(
            f"{subject.family}: its processor puts a BOS behind the image and a newline behind the prompt; "
            "leave out the answer, and run it with BOS"
        )
    laid_out = _with_inner_bos(subject, prompt) if inner_bos else prompt
    encoded, held = _label(subject, *_fill(subject, laid_out, processed.blocks, vision_inputs.frame(subject)), bos)
    sizes, counts = [picture.size for picture in pictures], [len(own) for own in held]
    seen = Seen(subject.model, subject.processor, sizes, processed.pixels, processed.blocks, counts)
    return boxes.mark(example, _placed(encoded, held, find(seen, held))), processed.pixels


def _placed(encoded: Encoded, held: Sequence[Sequence[int]], geometry: Geometry) -> Encoded:
    """With the geometry, and what follows from it: placeholders that are no cell of a picture, and thumbnails."""
    if geometry.unknown:
        return replace(encoded, geometry=geometry)
    small, cells = set[int](), set[int]()
    for picture in geometry.pictures:
        for view in picture.views:
            own = picture.at(view).flatten().tolist()
            cells.update(own)
            small.update(own if view.kind == THUMBNAIL else ())
    roles = list(encoded.roles)
    for i in (i for own in held for i in own if i not in cells):
        roles[i] = SEPARATOR
    marks = {THUMBNAIL: [i in small for i in range(len(roles))]} if small else {}
    return replace(encoded, roles=roles, marks=encoded.marks | marks, geometry=geometry)


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


def _refuse_stray(subject: Subject, example: Example, text: str) -> None:
    """A placeholder in the text would take another image's place."""
    wanted = sum(not isinstance(segment.content, str) for segment in example.segments)
    holder = str(subject.processor.image_token)
    image = vision_inputs.placeholder_id(subject.model)
    filled = holder if image is None else subject.tokenizer.convert_ids_to_tokens(image)
    for token, there in ((holder, wanted), (filled, wanted if filled == holder else 0)):
        if token and text.count(token) != there:
            raise UserError(
                f"example {example.id}: {text.count(token)} × {token} in the prompt for {wanted} "
                "image(s): leave the placeholder out of texts, an image is a segment of its own"
            )


def _has_inner_bos(subject: Subject, processed: Processed, name: str) -> bool:
    """Whether the processor lays the prompt out as PaliGemma's does. SubjectError: it changes the text otherwise."""
    plain = Prompt(processed.text, [], [])
    for inner_bos, prompt in ((False, plain), (True, _with_inner_bos(subject, plain))):
        text = _fill(subject, prompt, processed.blocks, ("", ""))[0].text
        if list(subject.tokenizer(text, add_special_tokens=False)["input_ids"]) == processed.ids:
            return inner_bos
    raise SubjectError(f"{subject.family}: its processor changes the text of example {name} beside the image")


def _with_inner_bos(subject: Subject, prompt: Prompt) -> Prompt:
    """PaliGemma's layout: a BOS behind the last image, a newline behind the prompt."""
    holder, bos = str(subject.processor.image_token), subject.tokenizer.bos_token or ""
    at = prompt.text.rfind(holder) + len(holder)
    return Prompt(
        prompt.text[:at] + bos + prompt.text[at:] + "\n",
        [_shifted(span, at, len(bos)) for span in prompt.roles],
        [_shifted(span, at, len(bos)) for span in prompt.marks],
    )


def _fill(subject: Subject, prompt: Prompt, blocks: Sequence[str], frame: tuple[str, str]) -> tuple[Prompt, list[Span]]:
    """The prompt with every placeholder replaced by its block, and where the blocks are. frame: what has to stand
    around each block and is not there yet.
    """
    text, roles, marks, shown = prompt.text, prompt.roles, prompt.marks, []
    holder, at = str(subject.processor.image_token), 0
    for block in blocks:
        start = text.index(holder, at)
        end = start + len(holder)
        if frame[0] and frame[0] not in block and not text[:start].endswith(frame[0]):
            block = frame[0] + block + frame[1]
        more = len(block) - len(holder)
        text = text[:start] + block + text[end:]
        roles, marks = [_shifted(s, end, more) for s in roles], [_shifted(s, end, more) for s in marks]
        at = start + len(block)
        shown.append(Span(start, at, "image"))
    return Prompt(text, roles, marks), shown


def _shifted(span: Span, at: int, by: int) -> Span:
    """A span where `by` characters were put in at `at`; a span that ends there does not grow."""
    return Span(span.start + by * (span.start >= at), span.end + by * (span.end > at), span.name)


def _label(subject: Subject, prompt: Prompt, shown: Sequence[Span], bos: bool) -> tuple[Encoded, list[list[int]]]:
    """Tokens of the filled prompt with their roles and marks, and the positions of each picture's placeholders."""
    tokenised = subject.tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(tokenised["input_ids"]), list(tokenised["offset_mapping"])
    first_id = subject.tokenizer.bos_token_id
    if bos and first_id is not None and first_id not in ids:
        ids, offsets = [first_id, *ids], [(0, 0), *offsets]
    encoded = label(subject, prompt.text, ids, offsets, prompt.roles, prompt.marks)
    image = vision_inputs.placeholder_id(subject.model)
    if image not in ids:
        raise SubjectError(
            f"{subject.name}: the processor writes no token {image}, which the model takes for the image: "
            "processor and model do not belong together"
        )
    tokens, roles, held = subject.tokenizer.convert_ids_to_tokens(ids), list(encoded.roles), []
    for block in shown:
        inside = [i for i, (start, end) in enumerate(offsets) if start < block.end and block.start < end]
        held.append(own := [i for i in inside if ids[i] == image])
        between = {_bare(tokens[i]) for i in inside if own and own[0] < i < own[-1]}
        for i in inside:
            roles[i] = "image" if ids[i] == image else SEPARATOR if _bare(tokens[i]) in between else "special"
    return replace(encoded, ids=ids, roles=roles), held


def _bare(token: str) -> str:
    """A token without its numbers: what stands between two tiles stands in front of the first as well."""
    return token.translate(str.maketrans("", "", "0123456789"))
