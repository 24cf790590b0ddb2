"""`look` in Jupyter: what was seen of one prompt, its page and its figures. It stands above analyses and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .analyses.common.controls import GENERAL_PROMPT
from .analyses.look.looking import HEADS, TOKENS, Picture, seen
from .reports.figures.look import figures
from .reports.pages import look as page

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Look:
    """What was seen of one prompt; Jupyter shows its page. content: plain data, as the page takes it; nothing in it is
    a tensor.
    """

    content: dict[str, Any]

    @property
    def figures(self) -> dict[str, go.Figure]:
        """Plotly figures by name."""
        return figures(self.content)

    def save(self, path: str | Path) -> Path:
        """The page at `path`, which opens from a file; returns the path."""
        return page.save(self.content, Path(path))

    def __repr__(self) -> str:
        c = self.content
        shown = f"{len(c['pictures'])} pictures, " if c["kind"] == "image" else ""
        return f"Look({c['subject']['name']}: {c['question']!r} → {c['answer']!r}, {shown}{len(c['tokens'])} tokens)"

    def _repr_html_(self) -> str:
        return page.inline(self.content)


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
    UserError: no question, a subject without images, an image that cannot be read, an answer that is no text or empty.
    """
    asked = {"answer": answer, "tokens": tokens, "template": template, "bos": bos, "general": general, "heads": heads}
    return Look(seen(subject, question, images, **asked))
