"""Answers to yes-or-no questions in the spelling that the model gives them: "Yes" and " yes" are different tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import torch

from ...data.errors import UserError
from ...data.example import Example

if TYPE_CHECKING:
    from ..model.subject import Subject

Spelling = tuple[str, str]  # of yes and of no, in one form
WORDS = (("Yes", "No"), ("yes", "no"), ("YES", "NO"))
FORMS: list[Spelling] = [(a + yes + z, a + no + z) for z, a, (yes, no) in product(("", "."), ("", " "), WORDS)]
ASKED, AT_ONCE = 64, 8  # prompts that the spelling is found on, and those of a forward
CLEARLY = 0.01  # so much more mass must another spelling have to be read in place of the task's own


def spelled(
    subject: Subject, examples: Sequence[Example], *, template: str = "raw", bos: Sequence[bool] = (True,)
) -> tuple[list[Example], list[str]]:
    """The examples with their yes-or-no answers in the model's spelling, and what the page has to say of it.

    Read is the form, the same for yes and no, whose two tokens together are likeliest behind these prompts (mean over
    the first ones and over the conditions of `bos`): which of the two is right is not looked at. The task's own form
    stays where no other has clearly more. Other examples stay as they are; nothing is said where there are no others.
    """
    asked = [example for example in examples if _own(example)]
    own = _own(asked[0]) if asked else None
    if own is None:
        return list(examples), []
    mass = masses(subject, asked[:ASKED], template=template, bos=bos)
    best = max(mass, key=lambda form: (mass[form], form == own), default=own)
    chosen = best if mass.get(best, 0) > mass.get(own, -1) + CLEARLY else own
    told = [_told(chosen, own, mass, min(len(asked), ASKED))] if mass else []
    return [_respelled(example, chosen) for example in examples], told


def spelled_like(others: Sequence[Example], examples: Sequence[Example]) -> list[Example]:
    """Other examples of a task, such as held-out ones, in the spelling of `examples`."""
    form = next(filter(None, map(_own, examples)), None)
    return list(others) if form is None else [_respelled(example, form) for example in others]


@torch.no_grad()
def masses(
    subject: Subject, examples: Sequence[Example], *, template: str = "raw", bos: Sequence[bool] = (True,)
) -> dict[Spelling, float]:
    """P(yes) + P(no) as the next token in each form of which both are single tokens: mean over examples, in [0, 1]."""
    found: dict[Spelling, list[float]] = {}
    own = _own(examples[0])
    for with_bos, start in product(bos, range(0, len(examples), AT_ONCE)):
        batch = subject.batch(examples[start : start + AT_ONCE], template=template, bos=with_bos)
        p = subject.last_logits(batch).float().softmax(-1).cpu()
        for form in dict.fromkeys([*filter(None, [own]), *FORMS]):
            try:
                ids = torch.tensor([[batch.token_of(example, word) for word in form] for example in batch.examples])
            except UserError:  # not a single token each
                continue
            unknown = ids == (-1 if subject.tokenizer.unk_token_id is None else subject.tokenizer.unk_token_id)
            if bool((ids[:, 0] != ids[:, 1]).all()) and not bool(unknown.any()):
                found.setdefault(form, []).extend(p.gather(1, ids).sum(1).tolist())
    count = len(examples) * len(bos)
    return {form: sum(values) / count for form, values in found.items() if len(values) == count}


def is_yes_no(example: Example) -> bool:
    """Whether an example asks for yes or no."""
    return _own(example) is not None


def _own(example: Example) -> Spelling | None:
    """How a yes-or-no question spells its answers; None for other examples."""
    words = {_plain(word): word for word in (example.answer, *example.wrong)}
    return (words["yes"], words["no"]) if set(words) == {"yes", "no"} else None


def _plain(word: str) -> str:
    return word.strip(" .").lower()


def _respelled(example: Example, form: Spelling) -> Example:
    if _own(example) is None:
        return example
    words: Mapping[str, str] = dict(zip(("yes", "no"), form, strict=True))
    answer, wrong = words[_plain(example.answer)], tuple(words[_plain(word)] for word in example.wrong)
    twin = example.corrupt and _respelled(example.corrupt, form)
    return replace(example, answer=answer, wrong=wrong, corrupt=twin)


def _told(chosen: Spelling, own: Spelling | None, mass: Mapping[Spelling, float], n: int) -> str:
    yes, no = chosen
    share = mass.get(chosen, float("nan"))
    said = f"Yes and no are read as “{yes}” and “{no}”: {share:.0%} of the probability behind {n} prompts is on the two"
    if chosen != own and own is not None:
        said += f", {mass.get(own, 0):.0%} on “{own[0]}” and “{own[1]}” as the task writes them"
    return said + (". The model mostly answers with neither." if share < 0.5 else ".")
