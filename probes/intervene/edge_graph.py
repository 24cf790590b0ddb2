"""The graph of a model's residual stream: who writes into it, who reads it, and who can hear whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ..model import anatomy
from .edge_slopes import Reader
from .recording import Recording

if TYPE_CHECKING:
    from ..model.subject import Subject


class Writer(NamedTuple):
    """What writes into the residual stream: kind "embed" (layer −1), "head", "mixer" (in the place of heads) or "mlp";
    head is −1 but for heads.
    """

    kind: str
    layer: int
    head: int


def possible_edges(base: Recording) -> Bool[Tensor, "reader writer"]:
    """Which of all writers every reader can hear."""
    return possible(base.subject, list(every_reader(base)), list(every_writer(base)))


def edge_owners(base: Recording) -> Bool[Tensor, "reader writer"]:
    """Which writer's own reading every reader does: a shared key or value is several heads'; the output is nobody's."""
    shared = sharing(base)

    def owns(reader: Reader, writer: Writer) -> bool:
        if reader.layer != writer.layer:
            return False
        if reader.kind in ("k", "v"):
            return writer.kind == "head" and writer.head // shared == reader.head
        return writer.kind == {"q": "head"}.get(reader.kind, reader.kind) and writer.head == reader.head

    return torch.tensor([[owns(reader, writer) for writer in every_writer(base)] for reader in every_reader(base)])


def sharing(base: Recording) -> int:
    """How many query heads share a key and a value; a layer without attention has neither."""
    kv_heads = max((record.value.shape[1] for record in base.layers if record.attends), default=base.subject.n_heads)
    return base.subject.n_heads // max(1, kv_heads)


def possible(subject: Subject, readers: Sequence[Reader], writers: Sequence[Writer]) -> Bool[Tensor, "reader writer"]:
    return torch.tensor([[before(w, r, subject) for w in writers] for r in readers])


def every_writer(base: Recording) -> Iterator[Writer]:
    """What writes into the residual stream of a model, in order."""
    yield Writer("embed", -1, -1)
    for i, record in enumerate(base.layers):
        yield from (Writer("head", i, head) for head in range(base.subject.n_heads if record.attends else 0))
        yield from [Writer("mixer", i, -1)] if record.mixed is not None else []
        yield Writer("mlp", i, -1)


def every_reader(base: Recording) -> Iterator[Reader]:
    """What reads the residual stream of a model, in the order of its layers."""
    for i, record in enumerate(base.layers):
        kv_heads = record.value.shape[1] if record.attends else 0
        for part, heads in (("q", base.subject.n_heads), ("k", kv_heads), ("v", kv_heads)):
            yield from (Reader(part, i, head) for head in range(heads if record.attends else 0))
        yield from [Reader("mixer", i, -1)] if record.mixed is not None else []
        yield Reader("mlp", i, -1)
    yield Reader("final", len(base.layers), -1)


def before(writer: Writer, reader: Reader, subject: Subject) -> bool:
    """Whether a writer has written when a reader reads."""
    same = (
        reader.kind == "mlp"
        and writer.kind in ("head", "mixer")
        and not anatomy.is_parallel(subject.layers[reader.layer])
    )
    return writer.layer < reader.layer or (same and writer.layer == reader.layer)
