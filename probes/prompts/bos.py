"""Whether a BOS stands first: as the user says, else as the task says, else as the tokenizer does by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.errors import UserError
from ...data.example import Example, Segment
from ..model.vision_inputs import has_prefix
from .text_prompts import render

if TYPE_CHECKING:
    from ..model.subject import Subject


def habit(subject: Subject, template: str = "raw") -> bool:
    """Whether a BOS comes first where nobody says.

    Without a template as the tokenizer does by itself. In a chat its template says; where a processor's writes none,
    the tokenizer adds it as ever, where a tokenizer's writes none, nobody does.
    """
    if subject.tokenizer is None or subject.tokenizer.bos_token_id is None:
        return False
    if has_prefix(subject.model):  # PaliGemma's processor writes one behind the image
        return True
    if template == "chat" and (subject.processor is subject.tokenizer or _chat_brings_bos(subject)):
        return _chat_brings_bos(subject)
    return subject.tokenizer("x")["input_ids"][:1] == [subject.tokenizer.bos_token_id]


def conditions(
    subject: Subject, template: str, asked: tuple[bool, ...] | None, of_task: bool | None = None
) -> tuple[bool, ...]:
    """With a BOS, without, or both: each once, and only those that can differ.

    asked: what the user wants, None for what the task does; of_task: what the task needs, None for the tokenizer's
    habit. UserError: a BOS alone is asked for and there is none, or none is and the chat template brings one.
    """
    has_bos = subject.tokenizer is not None and subject.tokenizer.bos_token_id is not None
    if not has_bos and asked == (True,):
        raise UserError(f"a BOS is asked for, but the tokenizer of {subject.name} has none: leave it to the tokenizer")
    if not has_bos:
        return (False,)
    if template == "chat" and _chat_brings_bos(subject):
        if asked == (False,):
            raise UserError(
                f"no BOS is asked for, but the chat template of {subject.name} writes one: use template 'raw'"
            )
        return (True,)
    return tuple(dict.fromkeys(asked or (habit(subject, template) if of_task is None else of_task,)))


def notes(subject: Subject, template: str, bos: tuple[bool, ...]) -> list[str]:
    """What a page must say where a condition is not what the tokenizer does by itself."""
    own = habit(subject, template)
    if own in bos and len(bos) == 1:
        return []
    writer = "chat template" if template == "chat" else "tokenizer"
    puts, run = ("puts a BOS before every prompt", "without") if own else ("puts no BOS before a prompt", "with")
    return [
        f"This model's {writer} {puts}; here it was run {'also ' * (len(bos) > 1)}{run} one. Where its accuracy is no "
        "better than chance then, this may be why."
    ]


def _chat_brings_bos(subject: Subject) -> bool:
    text, *_ = render(subject, Example("of one letter", "", (Segment("question", "x"),)), "chat")
    return subject.tokenizer.encode(text, add_special_tokens=False)[:1] == [subject.tokenizer.bos_token_id]
