"""What a model says: greedy continuations of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import GenerationConfig

from ...data.errors import SubjectError, UserError
from ..model.attention import NAME

if TYPE_CHECKING:
    from ..model.subject import Subject
    from ..prompts.batch import Batch


def generate(subject: Subject, batch: Batch, *, max_tokens: int = 32) -> list[str]:
    """Each prompt's greedy continuation up to the end token, as text without special tokens.

    ValueError: a padded batch that is not padded on the left, where continuations would not join their prompts.
    """
    ids = batch.inputs["input_ids"]
    if bool((batch.last < ids.shape[1] - 1).any()):
        raise ValueError("generate needs left padding: subject.batch(examples, padding='left')")
    return [answer.text for answer in generate_answers(subject, batch, max_tokens)]


class Answer(NamedTuple):
    """ids: the generated tokens without the end token. text: what they say. cut: the end token did not come.

    same: put behind its prompt, the text becomes the generated tokens again.
    """

    ids: list[int]
    text: str
    cut: bool
    same: bool = True


@torch.no_grad()
def generate_answers(subject: Subject, batch: Batch, tokens: int) -> list[Answer]:
    """Greedy answers of at most `tokens` tokens by the model's own `generate`, with its cache; edits around it act.

    UserError: a batch padded on the right, or a prompt so long that the context would cut the answer.
    """
    if batch.form.get("padding") != "left" and not bool(batch.mask.all()):
        raise UserError("generation needs padding on the left: subject.batch(examples, padding='left')")
    _refuse_cut(subject, batch, tokens)
    if subject.text_config._attn_implementation != NAME:
        raise SubjectError(f"{subject.name}: the attention function was replaced, edits would not act")
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
