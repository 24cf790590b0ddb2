"""How much of a model runs: what is read is told by the rows that pass its layers, not by a clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def layer_rows(subject: Any) -> Iterator[list[int]]:
    """The rows (tokens of all variants) of every call of a layer in the block, in the order of the calls."""
    counts: list[int] = []

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        counts.append(states.shape[:-1].numel())

    with ExitStack() as stack:
        for layer in subject.layers:
            stack.callback(layer.register_forward_pre_hook(count, with_kwargs=True).remove)
        yield counts
