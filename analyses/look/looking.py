"""One question about pictures, or one text, and where the model looks as it answers, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...data.errors import UserError
from ...data.images import open_image, rgb
from ...probes.model.subject import refuse_under_edit
from .asking import ask, prompt
from .pictures import of_pictures

TOKENS, HEADS, STATES, K = 24, 12, 3, 4
Picture = str | Path | Image.Image


def seen(
    subject: Any,
    question: str,
    images: Sequence[Picture] | Picture,
    *,
    answer: str,
    tokens: int,
    template: str | None,
    bos: bool | None,
    general: str,
    heads: int,
) -> dict[str, Any]:
    """What `crosslens.look` shows; it says what is asked."""
    refuse_under_edit(subject, "look")
    if min(tokens, heads) < 1:
        raise UserError(f"{tokens} tokens of answer, {heads} heads: at least one of each is needed")
    for name, one in (("question", question), ("answer", answer), ("general question", general)):
        if not isinstance(one, str):
            raise UserError(f"the {name} is {type(one).__name__}: a text is needed")
    shown = _opened(images)
    example = prompt(question, shown)
    if not shown:
        from .texts import of_text

        return of_text(subject, example, answer, template, bos, heads)
    asked = ask(subject, example, answer, tokens, template, bos, general)
    return of_pictures(subject, question, shown, asked, general, heads=heads, states=STATES, k=K)


def _opened(images: Sequence[Picture] | Picture) -> list[Image.Image]:
    given = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    opened = [open_image(one) if isinstance(one, str | Path) else one for one in given]
    for number, one in enumerate(opened):
        if not isinstance(one, Image.Image):
            raise UserError(f"image {number} is {type(one).__name__}: a file or a PIL image is needed")
    return [rgb(one, f"image {number}") for number, one in enumerate(opened)]
