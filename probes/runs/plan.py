"""Which examples ride together: batches of similar length within a budget of positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...data.example import Example
from ..model.rotary import crosses
from ..prompts.encode import encode

if TYPE_CHECKING:
    from ..model.subject import Subject
    from ..prompts.batch import Batch


@dataclass(frozen=True)
class Shard:
    """One batch of a run: examples by id, and whether a BOS is put first.

    fold: the fold that all of its examples are in, where an analysis sums its rows by fold; else None.
    """

    bos: bool
    ids: tuple[str, ...]
    fold: int | None = None


def make_plan(
    subject: Subject,
    examples: Sequence[Example],
    template: str,
    bos: Sequence[bool],
    tokens: int,
    size: int | None,
    folds: Mapping[str, int] | None = None,
) -> list[Shard]:
    """Length-sorted shards of at most `tokens` padded positions (or one example) and `size` examples.

    None holds prompts on both sides of a switch of rotary factors: no prompt's numbers depend on its neighbours.
    folds: group -> fold; none then holds examples of two folds.
    """
    shards = []
    for with_bos in bos:
        lengths = {e.id: len(encode(subject, e, template, with_bos).ids) for e in examples}
        for fold in [None] if folds is None else sorted(set(folds.values())):
            mine = [e for e in examples if folds is None or folds[e.group] == fold]
            for ids in _batches({e.id: lengths[e.id] for e in mine}, subject, tokens, size):
                shards.append(Shard(with_bos, ids, fold))
    return shards


def _batches(lengths: Mapping[str, int], subject: Subject, tokens: int, size: int | None) -> Iterator[tuple[str, ...]]:
    """Ids of similar length, within the budget."""
    batch: list[str] = []
    for name, length in sorted(lengths.items(), key=lambda item: (item[1], item[0])):
        full = (len(batch) + 1) * length > tokens or len(batch) == size
        if batch and (full or crosses(subject.text_config, lengths[batch[0]], length)):
            yield tuple(batch)
            batch = []
        batch.append(name)
    yield tuple(batch)


def first_condition(batches: Sequence[Batch]) -> list[Batch]:
    """The batches of the condition that comes first: what serves all conditions is chosen on one of them."""
    return [batch for batch in batches if batch.form == batches[0].form]


def plan_to_json(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    folds = [{} if shard.fold is None else {"fold": shard.fold} for shard in shards]
    return [{"bos": shard.bos, "ids": list(shard.ids)} | fold for shard, fold in zip(shards, folds, strict=True)]


def plan_from_json(items: Sequence[dict[str, Any]]) -> list[Shard]:
    return [Shard(item["bos"], tuple(item["ids"]), item.get("fold")) for item in items]


def shapes(
    subject: Subject, examples: Sequence[Example], shards: Sequence[Shard], template: str
) -> list[tuple[int, int]]:
    """(examples, padded positions) of every shard."""
    known = {example.id: example for example in examples}
    return [
        (len(shard.ids), max(len(encode(subject, known[i], template, shard.bos).ids) for i in shard.ids))
        for shard in shards
    ]
