"""How a benchmark asks: what stands before and behind the question, and how its answers begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from .example import Segment
from .templates import led

BRIEFLY = "\nAnswer the question using a single word or phrase."


@dataclass(frozen=True)
class Asking:
    """template: the prompts' form. opening: what stands between image and question, "" in a chat, "\\n" in raw prompts
    of LLaVA; instruction: what stands behind it. prefix: what stands before answers, None as `templates.led` says.
    """

    template: str = "chat"
    opening: str = ""
    instruction: str = ""
    prefix: str | None = None

    def segments(
        self, image: Image, text: str, marks: Mapping[str, Sequence[tuple[int, int]]] | None = None
    ) -> tuple[Segment, ...]:
        """Image, question, instruction. marks: spans of the question's own text; a name without spans is no mark."""
        start, end = (part.replace("\\n", "\n") for part in (self.opening, self.instruction))
        moved = {n: [(a + len(start), b + len(start)) for a, b in spans] for n, spans in (marks or {}).items() if spans}
        asked = Segment("image", image), Segment("question", start + text, moved)
        return (*asked, Segment("instruction", end)) if end else asked

    def answers(self, text: str, answer: str, wrong: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
        """The answer and the wrong ones as they stand behind the prompt."""
        right, *others = (led(w, self.template, self.instruction or text, self.prefix) for w in (answer, *wrong))
        return right, tuple(others)
