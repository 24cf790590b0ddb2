"""The command look: one question about pictures, or one text, and the page of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from ..data.errors import UserError
from ..probes.runs.remembered import prove_once
from .model import OUT, OneModel


@dataclass(frozen=True)
class Look(OneModel):
    """Where the model looks as it answers: crosslens look "What colour is the circle?" --image FILE --subject scenes.

    One page that opens from a file: maps over the picture by word, method, layer and head, each with its control.
    Without an image the attention patterns of a text, its lens grid and its logit attribution.
    """

    question: Positional[str] = ""
    image: UseAppendAction[tuple[Path, ...]] = ()  # a picture file; several, each behind its own --image
    subject: str = "smollm2"
    answer: str = ""  # what is looked at in place of the model's own answer
    tokens: int = 24  # of the answer at most
    template: str | None = None  # raw, chat or 'USER: {image}\n{question} ASSISTANT:'; by default chat for pictures
    bos: bool | None = None  # whether a BOS stands before the prompt; by default what the tokenizer does
    general: str = "Write a general description of the image."  # the question that maps are compared with
    heads: int = 12  # that are shown by themselves
    out: Path = OUT

    def __call__(self, line: str) -> None:
        if not self.question.strip():
            raise UserError('name a question: crosslens look "What colour is the circle?" --image FILE')
        for path in self.image:
            if not path.is_file():
                raise UserError(f"no image at {path}")
        from ..looked import look
        from ..reports.pages.look import file_name

        subject = self.open(self.subject)
        prove_once(subject)
        asked = {n: getattr(self, n) for n in ("answer", "tokens", "bos", "general", "heads")}
        template = self.template and self.template.replace("\\n", "\n")
        found = look(subject, self.question, self.image, template=template, **asked)
        print(found.save(self.out / file_name(self.question)))
