"""One example to tokens, with an image in it or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.example import Example
from .image_prompts import expand
from .text_prompts import Encoded, encode_text, has_image

if TYPE_CHECKING:
    from ..model.subject import Subject


def encode(subject: Subject, example: Example, template: str, bos: bool) -> Encoded:
    """Tokenise one example. UserError: a template the tokenizer does not have, and as `expand`."""
    if has_image(example):
        return expand(subject, [example], template, bos)[0][0]
    return encode_text(subject, example, template, bos)
