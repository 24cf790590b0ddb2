"""`look`: one question about pictures, or one text, and where the model looks as it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...data.errors import UserError
from ...data.images import open_image, rgb
from ...probes.model.subject import refuse_under_edit
from ..common.controls import GENERAL_PROMPT
from .asking import ask, prompt
from .pictures import of_pictures

if TYPE_CHECKING:
    import plotly.graph_objects as go

TOKENS, HEADS, STATES, K = 24, 12, 3, 4
Picture = str | Path | Image.Image


@dataclass(frozen=True, repr=False)
class Look:
    """What was seen of one prompt. content: plain data, as the page takes it; nothing in it is a tensor."""

    content: dict[str, Any]

    @property
    def figures(self) -> dict[str, go.Figure]:
        """Plotly figures by name."""
        from ...reports.figures.look import figures

        return figures(self.content)

    def save(self, path: str | Path) -> Path:
        """The page at `path`, which opens from a file; returns the path."""
        from ...reports.pages.look import save

        return save(self.content, Path(path))

    def __repr__(self) -> str:
        c = self.content
        shown = f"{len(c['pictures'])} pictures, " if c["kind"] == "image" else ""
        return f"Look({c['subject']['name']}: {c['question']!r} → {c['answer']!r}, {shown}{len(c['tokens'])} tokens)"


def look(
    subject: Any,
    question: str,
    images: Sequence[Picture] | Picture = (),
    *,
    answer: str = "",
    tokens: int = TOKENS,
    template: str | None = None,
    bos: bool | None = None,
    general: str = GENERAL_PROMPT,
    heads: int = HEADS,
) -> Look:
    """Where the model looks as it answers `question` about `images` (files or PIL images), all of them in order.

    One greedy generation, unless `answer` is given, then one forward of three prompts with that answer: the question,
    a `general` question about the same pictures, and the question about plain grey ones. Without images `question` is a
    text, and its attention patterns, lens grid and logit attribution are shown; `answer` is the next token then.
    tokens: of the answer at most. template: as in `Subject.batch`; by default the chat template for pictures, raw for
    texts. heads: how many are listed.
    Shapes of `content["maps"]`: [answer tokens, levels, image tokens], attention in 0…1.
    UserError: no question, a subject without images, an image that cannot be read, an answer that is empty.
    """
    refuse_under_edit(subject, "look")
    if min(tokens, heads) < 1:
        raise UserError(f"{tokens} tokens of answer, {heads} heads: at least one of each is needed")
    shown = _opened(images)
    example = prompt(question, shown)
    if not shown:
        from .texts import of_text

        return Look(of_text(subject, example, answer, template, bos, heads))
    asked = ask(subject, example, answer, tokens, template, bos, general)
    return Look(of_pictures(subject, question, shown, asked, general, heads=heads, states=STATES, k=K))


def _opened(images: Sequence[Picture] | Picture) -> list[Image.Image]:
    given = [images] if isinstance(images, str | Path | Image.Image) else list(images)
    opened = [open_image(one) if isinstance(one, str | Path) else one for one in given]
    for number, one in enumerate(opened):
        if not isinstance(one, Image.Image):
            raise UserError(f"image {number} is {type(one).__name__}: a file or a PIL image is needed")
    return [rgb(one, f"image {number}") for number, one in enumerate(opened)]
