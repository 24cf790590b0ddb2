"""Answers of a user's data in the spelling that the model gives them: "red", " red", "Red" are different tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...data.errors import UserError
from ...data.example import Example
from .yes_no import ASKED, AT_ONCE, CLEARLY, is_yes_no

if TYPE_CHECKING:
    from ..model.subject import Subject
    from .batch import Batch

OWN = "as written"


def _apart(word: str) -> str:
    return word.lstrip() if word[:1].isspace() else " " + word


def _capital(word: str) -> str:
    bare = word.lstrip()
    return word[: len(word) - len(bare)] + bare[:1].upper() + bare[1:]


WRITTEN: dict[str, Callable[[str], str]] = {
    OWN: lambda word: word,
    "with or without the space in front, other than written": _apart,
    "capitalised": _capital,
    "capitalised, with or without the space in front, other than written": lambda word: _capital(_apart(word)),
}


def freely_spelled(
    subject: Subject, examples: Sequence[Example], *, template: str, bos: Sequence[bool], fixed: bool = False
) -> tuple[str, list[str]]:
    """The name in WRITTEN of the model's spelling, and what the page has to say of it; nothing without such answers.

    Read is the form whose first tokens, of the answer and of all wrong ones, are likeliest together behind these
    prompts (mean over the first ones and the conditions of `bos`). As written stays where no other has clearly more,
    and where it is `fixed`. Yes and no have forms of their own (`yes_no.spelled`).
    """
    asked = [e for e in examples if e.answer and not is_yes_no(e)][:ASKED]
    if not asked:
        return OWN, []
    mass = _masses(subject, asked, template, bos)
    best = max(mass, key=lambda form: (mass[form], form == OWN), default=OWN)
    chosen = best if not fixed and mass.get(best, 0) > mass.get(OWN, -1) + CLEARLY else OWN
    share = mass.get(chosen, float("nan"))
    told = f"Answers are read {chosen}: {share:.0%} of the probability behind {len(asked)} prompts is on the first "
    told += "tokens of those that are asked for"
    told += f", {mass.get(OWN, 0):.0%} as written" if chosen != OWN else ""
    return chosen, [told + (". The model mostly answers with others." if share < 0.5 else ".")]


def respelled(examples: Sequence[Example], form: str) -> list[Example]:
    """The examples with their answers in a form of WRITTEN; yes and no stay as they are."""
    write = WRITTEN[form]

    def one(example: Example) -> Example:
        twin = None if example.corrupt is None else one(example.corrupt)
        answer = write(example.answer) if example.answer else ""
        return replace(example, answer=answer, wrong=tuple(map(write, example.wrong)), corrupt=twin)

    return [example if form == OWN or is_yes_no(example) else one(example) for example in examples]


@torch.no_grad()
def _masses(subject: Subject, asked: Sequence[Example], template: str, bos: Sequence[bool]) -> dict[str, float]:
    """Form -> mean probability of the first tokens asked for; of the forms that serve every prompt."""
    sums = dict.fromkeys(WRITTEN, 0.0)
    for with_bos in bos:
        for start in range(0, len(asked), AT_ONCE):
            batch = subject.batch(asked[start : start + AT_ONCE], template=template, bos=with_bos)
            p = subject.last_logits(batch).float().softmax(-1).cpu()
            for form in list(sums):
                ids = [_first_tokens(batch, example, form) for example in batch.examples]
                if all(ids):
                    sums[form] += sum(float(p[row, sorted(own)].sum()) for row, own in enumerate(ids))
                else:
                    del sums[form]
    return {form: total / (len(asked) * len(bos)) for form, total in sums.items()}


def _first_tokens(batch: Batch, example: Example, form: str) -> set[int]:
    """Of the answer and all wrong ones; none where the form joins the prompt, has no token, or makes two alike."""

    def written(name: str) -> list[int]:
        return [batch.first_token_of(example, WRITTEN[name](word)) for word in (example.answer, *example.wrong)]

    try:
        found, own = written(form), written(OWN)
    except UserError:
        return set()
    unknown = batch.tokenizer.unk_token_id
    alike = len(set(found)) < len(set(own)) or (unknown is not None and unknown in found)
    return set() if alike and form != OWN else set(found)
