"""The examples of a run: drawn from the task, broken ones left out where that is asked, answers made readable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.broken import sound
from ...data.example import Example
from ...data.tasks import Task
from ..prompts.encode import encode
from ..prompts.several_tokens import first_difference, several_tokens
from ..prompts.spelling import OWN, freely_spelled, respelled
from ..prompts.yes_no import spelled, spelled_like

if TYPE_CHECKING:
    from ..model.subject import Subject


@dataclass(frozen=True)
class Drawn:
    """Examples as the task has them; left_out: why each broken row was left out, [] where none was or may be."""

    examples: list[Example]
    left_out: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What the page has to say of rows that were left out, each by name."""
        if not self.left_out:
            return []
        return [f"{len(self.left_out)} broken rows were left out (--skip-broken): {'; '.join(self.left_out)}"]


def draw(
    subject: Subject,
    task: Task,
    limit: int | None,
    seed: int,
    *,
    template: str,
    bos: Sequence[bool],
    skip_broken: bool = False,
) -> Drawn:
    """The task's examples. skip_broken: rows that cannot be read, or not be shown to this model, are left out."""
    if not skip_broken:
        return Drawn(task.examples(subject.tokenizer, limit, seed, template=template))
    broken: list[str] = []
    examples = task.examples(subject.tokenizer, limit, seed, template=template, broken=broken)
    kept = _showable(subject, examples, template, bos, broken)
    home = str(Path(task.location).expanduser().resolve().parent)
    told = [line.replace(f"{home}/", "").replace(f"{Path(task.location).parent}/", "") for line in broken]
    return Drawn(kept, told)


def _showable(
    subject: Subject, examples: Sequence[Example], template: str, bos: Sequence[bool], broken: list[str]
) -> list[Example]:
    """The examples that become tokens of this model; why the others do not goes to `broken`."""

    def shown(example: Example) -> Example:
        for prompt in (example, *([example.corrupt] if example.corrupt else [])):
            for with_bos in bos:
                encode(subject, prompt, template, with_bos)
        return example

    return list(sound(examples, shown, broken))


@dataclass(frozen=True)
class Readable:
    """Examples whose answers are in the model's spelling, at the place where right and wrong differ."""

    examples: list[Example]
    notes: list[str]
    form: str = OWN

    def like(self, subject: Subject, others: Sequence[Example], template: str, bos: bool) -> list[Example]:
        """Other examples of the task, such as held-out ones, in the same spelling."""
        alike = respelled(spelled_like(others, self.examples), self.form)
        return first_difference(subject, alike, template=template, bos=bos)


def readable(
    subject: Subject, task: Task, examples: Sequence[Example], *, template: str, bos: Sequence[bool], own: bool = False
) -> Readable:
    """The examples with answers that can be read off the logits. own: the model's own answers are put behind the
    prompts later, so that they stay open.
    """
    found, notes = spelled(subject, examples, template=template, bos=bos)
    form = OWN
    if getattr(task.module, "SPELLING", "") == "free" and not own:
        fixed = task.options.get("prefix") is not None
        form, told = freely_spelled(subject, found, template=template, bos=bos, fixed=fixed)
        found, notes = respelled(found, form), [*notes, *told]
    if not own:
        found = first_difference(subject, found, template=template, bos=bos[0])
        notes = [*notes, *several_tokens(subject, found)]
    return Readable(found, notes, form)


def facts_of_task(task: Task, drawn: Drawn, skip_broken: bool) -> dict[str, Any]:
    """What a record holds of the task's data beside its name: options, content, place, what was left out."""
    told = task.facts(drawn.examples)
    return told | ({"skip_broken": True, "left_out": drawn.left_out} if skip_broken else {})
