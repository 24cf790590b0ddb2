"""The concept that a translation asks for: its word in English and in the answer's language, beside other concepts'."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.example import Example
from ...data.tokens import ids_in_text
from ...data.word_groups import CONCEPTS, LANGUAGES
from ...probes.prompts.batch import Batch

SPOKEN = ("English", "in the answer's language")
OTHERS = "others"
ROWS = [tuple(row.split()) for row in CONCEPTS.splitlines()]


def concept_ids(batch: Batch) -> tuple[Int[Tensor, "b 2"], Int[Tensor, "b 2 m"]]:
    """For each of SPOKEN the first token of the concept's word, and of other concepts' words in the same language;
    −1 where there is none.
    """
    told = [_of_example(batch.tokenizer, example) for example in batch.examples]
    most = max((len(ids) for _, others in told for ids in others), default=1) or 1
    padded = [[ids + [-1] * (most - len(ids)) for ids in others] for _, others in told]
    return torch.tensor([own for own, _ in told]), torch.tensor(padded)


def _of_example(tokenizer: Any, example: Example) -> tuple[list[int], list[list[int]]]:
    """Own tokens and the others'. Words of the prompt do not count, nor concepts of which a word stands there."""
    known, nothing = _first_tokens(tokenizer), ([-1, -1], [[], []])
    target = str(example.meta.get("target", ""))
    own = next((row for row in ROWS if row[0] == example.group), None)
    if own is None or target not in LANGUAGES[1:]:
        return nothing
    prompt = {word for s in example.segments if isinstance(s.content, str) for word in s.content.split()}
    columns = [0, LANGUAGES.index(target)]
    ids = [known[own[column]] for column in columns]
    if -1 in ids or ids[0] == ids[1] or prompt & {own[column] for column in columns}:
        return nothing
    rest = [row for row in ROWS if row is not own and not prompt & {*row}]
    return ids, [[i for row in rest if (i := known[row[column]]) not in (-1, *ids)] for column in columns]


@lru_cache(maxsize=4)
def _first_tokens(tokenizer: Any) -> dict[str, int]:
    """Every concept's words: the first token, −1 where it is no more than one letter."""
    words = {word for row in ROWS for word in row}
    first = {word: ids_in_text(tokenizer, f" {word}")[0] for word in words}
    return {word: i if len(tokenizer.decode([i]).strip()) > 1 else -1 for word, i in first.items()}


def concept_rows(
    p: Float[Tensor, "n vocab"], own: Int[Tensor, "n 2"], others: Int[Tensor, "n 2 m"]
) -> dict[str, Float[Tensor, " n"]]:
    """Of each of SPOKEN "concept|…", and "concept|…|others", the mean over other concepts; NaN where there is none."""
    there = own >= 0
    mine = p.gather(1, own.clamp(min=0)).masked_fill(~there, torch.nan)
    listed = others >= 0
    values = p.gather(1, others.clamp(min=0).flatten(1)).view(others.shape)
    mean = values.masked_fill(~listed, 0.0).sum(-1) / listed.sum(-1)
    rows = {f"concept|{word}": mine[:, i] for i, word in enumerate(SPOKEN)}
    return rows | {
        f"concept|{word}|{OTHERS}": mean.masked_fill(~there, torch.nan)[:, i] for i, word in enumerate(SPOKEN)
    }
