"""Which examples ride together: batches of similar length within a budget of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.example import Example
from .encode import encode

if TYPE_CHECKING:
    from .subject import Subject


@dataclass(frozen=True)
class Shard:
    """One batch of a run: examples by id, and whether a BOS is put first."""

    bos: bool
    ids: tuple[str, ...]


def make_plan(
    subject: Subject,
    examples: Sequence[Example],
    template: str,
    bos: Sequence[bool],
    tokens: int,
    size: int | None,
) -> list[Shard]:
    """Length-sorted shards of at most `tokens` padded positions (or one example) and `size` examples."""
    shards = []
    for with_bos in bos:
        lengths = {e.id: len(encode(subject, e, template, with_bos).ids) for e in examples}
        batch: list[str] = []
        for example in sorted(examples, key=lambda e: (lengths[e.id], e.id)):
            if batch and ((len(batch) + 1) * lengths[example.id] > tokens or len(batch) == size):
                shards.append(Shard(with_bos, tuple(batch)))
                batch = []
            batch.append(example.id)
        shards.append(Shard(with_bos, tuple(batch)))
    return shards


def plan_to_json(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    return [{"bos": shard.bos, "ids": list(shard.ids)} for shard in shards]


def plan_from_json(items: Sequence[dict[str, Any]]) -> list[Shard]:
    return [Shard(item["bos"], tuple(item["ids"])) for item in items]
