"""The model's own answers: greedy generation from left-padded batches, and examples that carry what was said."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import GenerationConfig

from ..data.example import Example, Segment, UserError
from ..data.words import judge
from . import anatomy
from .attention import NAME
from .encode import encode
from .plan import make_plan

if TYPE_CHECKING:
    from .batch import Batch
    from .subject import Subject

AT_ONCE = 16  # examples generated together where nobody says how many


class Answer(NamedTuple):
    """ids: the generated tokens without the end token. text: what they say. cut: the end token did not come.

    same: put behind its prompt, the text becomes the generated tokens again.
    """

    ids: list[int]
    text: str
    cut: bool
    same: bool = True


@torch.no_grad()
def generate(subject: Subject, batch: Batch, tokens: int) -> list[Answer]:
    """Greedy answers of at most `tokens` tokens by the model's own `generate`, with its cache; edits around it act.

    UserError: a batch padded on the right, or a prompt so long that the context would cut the answer.
    """
    if batch.form.get("padding") != "left" and not bool(batch.mask.all()):
        raise UserError("generation needs padding on the left: subject.batch(examples, padding='left')")
    _refuse_cut(subject, batch, tokens)
    if subject.text_config._attn_implementation != NAME:
        raise anatomy.SubjectError(f"{subject.name}: the attention function was replaced, edits would not act")
    ends, pad = end_ids(subject), subject.tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if pad is None and ends else pad,
    )
    inputs = {k: v.to(subject.device) if isinstance(v, torch.Tensor) else v for k, v in batch.inputs.items()}
    out = subject.model.generate(**inputs, generation_config=config)
    new = out[:, batch.inputs["input_ids"].shape[1] :].tolist()
    return [_answer(subject, ids, ends) for ids in new]


def _answer(subject: Subject, ids: list[int], ends: Sequence[int]) -> Answer:
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    said = ids if stop is None else ids[:stop]
    text = subject.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Answer(said, text, stop is None)


def end_ids(subject: Subject) -> list[int]:
    """The tokens that end an answer: those of the model's generation settings and the tokenizer's."""
    told = getattr(subject.model.generation_config, "eos_token_id", None)
    found = [] if told is None else [told] if isinstance(told, int) else list(told)
    own = subject.tokenizer.eos_token_id
    return list(dict.fromkeys([*found, *([] if own is None else [own])]))


def _refuse_cut(subject: Subject, batch: Batch, tokens: int) -> None:
    if tokens < 1:
        raise UserError(f"an answer of at most {tokens} tokens: at least one is needed")
    limit = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None)
    lengths = batch.mask.sum(1)
    if limit is not None and int(lengths.max()) + tokens > limit:
        name = batch.example_ids[int(lengths.argmax())]
        raise UserError(
            f"example {name}: {int(lengths.max())} tokens of prompt and up to {tokens} of answer, but {subject.name} "
            f"reads at most {limit}: the context would cut the answer; ask for fewer tokens"
        )


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
            answers = generate(subject, subject.batch(some, template=template, bos=bos, padding="left"), tokens)
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
