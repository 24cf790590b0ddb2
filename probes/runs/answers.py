"""The model's own answers: greedy generation from left-padded batches, and examples that carry what was said."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...data.errors import UserError
from ...data.example import Example, Segment
from ...data.object_words import judge
from ...data.progress import progress
from ..observe.generation import Answer, generate_answers
from ..prompts.encode import encode
from . import store
from .job import Job, Settings
from .plan import make_plan

if TYPE_CHECKING:
    from ..model.subject import Subject

AT_ONCE = 16  # examples generated together where nobody says how many


def own_answers(
    subject: Subject, examples: Sequence[Example], tokens: int, *, template: str = "raw", bos: bool = True
) -> dict[str, Answer]:
    """What the model answers to each example, by id; examples of similar length are generated together."""
    parts = answering(subject, examples, tokens, template=template, bos=bos)
    return {name: answer for part in parts for name, answer in part.items()}


def answering(
    subject: Subject,
    examples: Sequence[Example],
    tokens: int,
    *,
    template: str,
    bos: bool,
    positions: int = 4096,
    size: int | None = None,
    known: Collection[str] = (),
) -> Iterator[dict[str, Answer]]:
    """`own_answers` one batch after the other, so that they can be kept; those of the ids in `known` are left out.

    positions: of the padded prompts of a batch; size: examples of a batch at most, AT_ONCE where it is None.
    """
    by_id = {example.id: example for example in examples}
    # Batches of all examples: what is known already does not change what the others are generated with.
    for shard in make_plan(subject, examples, template, [bos], positions, size or AT_ONCE):
        some = [by_id[name] for name in shard.ids if name not in known]
        if some:
            answers = generate_answers(subject, subject.batch(some, template=template, bos=bos, padding="left"), tokens)
            pairs = zip(some, answers, strict=True)
            yield {example.id: _behind(subject, example, answer, template, bos) for example, answer in pairs}


def _behind(subject: Subject, example: Example, answer: Answer, template: str, bos: bool) -> Answer:
    """The answer with its text as it has to stand behind the prompt: some tokenizers lose a first space."""
    for text in (answer.text, " " + answer.text) if answer.text else ():
        read = encode(subject, _with_answer(example, text), template, bos)
        if [i for i, role in zip(read.ids, read.roles, strict=True) if role == "answer"] == answer.ids:
            return answer._replace(text=text)
    apart = answer.text if answer.text[:1].isspace() or not answer.text else " " + answer.text
    return answer._replace(text=apart, same=not answer.ids)


def with_answers(examples: Sequence[Example], said: Mapping[str, str]) -> list[Example]:
    """The examples with what was said as their last segment, its true and false object words marked.

    Where nothing was said, the prompt stays open. Meta: "said", the text. UserError: an answer is there already.
    """
    return [_with_answer(example, said[example.id]) for example in examples]


def _with_answer(example: Example, text: str) -> Example:
    if any(segment.role == "answer" for segment in example.segments):
        raise UserError(f"example {example.id} has an answer in its prompt: the model's own cannot be put behind it")
    segments = (*example.segments, Segment("answer", text, judge(example, text))) if text else example.segments
    return replace(example, segments=segments, meta={**example.meta, "said": text})


def answered(
    subject: Subject,
    examples: list[Example],
    jobs: Sequence[Job],
    template: str,
    bos: Sequence[bool],
    settings: Settings,
) -> list[Example]:
    """The examples with the model's own answers where they are asked for.

    Each run keeps them in its answers.json, batch by batch: a killed run does not generate them again.
    """
    if not settings.answer_tokens:
        return examples
    if len(bos) > 1:
        raise UserError("the model's own answers differ with and without BOS: choose one, --bos yes or --bos no")
    said: dict[str, dict[str, Any]] = {}
    for job in jobs:
        said |= store.read_json(job.directory / "answers.json") or {}
    jobs = [job for job in jobs if not job.complete]
    asked = {"template": template, "bos": bos[0], "positions": settings.tokens, "size": settings.size}
    with progress("answers", len(examples), len(said), "examples") as count:
        for some in answering(subject, examples, settings.answer_tokens, **asked, known=frozenset(said)):
            said |= {name: answer._asdict() for name, answer in some.items()}
            _keep_answers(jobs, said)
            count(len(some))
    _keep_answers(jobs, said)
    for job in jobs:
        job.notes += _told(said)
    return with_answers(examples, {name: answer["text"] for name, answer in said.items()})


def _keep_answers(jobs: Sequence[Job], said: Mapping[str, Mapping[str, Any]]) -> None:
    for job in jobs:
        store.write_json(job.directory / "answers.json", said)


def _told(said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the page has to say of the model's own answers."""
    cut, other = sum(a["cut"] for a in said.values()), sum(not a["same"] for a in said.values())
    empty = sum(not a["text"] for a in said.values())
    return [
        f"The model's own greedy answers stand behind the prompts: {len(said)}, of these {empty} empty, {cut} ended by "
        f"the limit of tokens, {other} that read back as other tokens than were generated."
    ]
