"""What an analysis' options have to be, asked before anything is run; one line says which option and what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...data.errors import UserError


def require_counts(analysis: str, options: Any, **least: int) -> None:
    """UserError: an option of these names is below its least number."""
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            raise UserError(f"--{analysis}.{name} {getattr(options, name)}: at least {lowest} is needed")


def require_share(analysis: str, options: Any, name: str) -> None:
    """UserError: no share of the heads that has any head."""
    if not 0 < getattr(options, name) <= 1:
        raise UserError(f"--{analysis}.{name} {getattr(options, name):g}: a share above 0 and at most 1 is needed")


def require_heads(option: str, heads: Iterable[Sequence[int]], subject: Any) -> None:
    """UserError: a head that the model does not have."""
    there = set(every_head(subject))
    for layer, head in heads:
        if (layer, head) not in there:
            raise UserError(f"--{option}: {subject.name} has no head {layer}.{head}")


def every_head(subject: Any) -> list[tuple[int, int]]:
    """All heads of a model, (layer, head) in order."""
    return [(layer, head) for layer in subject.decoder.attending for head in range(subject.decoder.heads(layer))]
