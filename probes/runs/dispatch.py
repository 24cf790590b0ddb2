"""Shards to workers: whoever is free gets the next one; what fails is tried elsewhere; what keeps failing is named."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, NamedTuple, Protocol

from ...data.errors import UserError
from ...data.progress import duration

ATTEMPTS = 3
AHEAD = 2  # shards that a worker has: one that it computes, one that waits, so that it never waits for the driver
PATIENCE = 1800.0  # seconds without an answer after which a worker hangs


class Outcome(NamedTuple):
    """What came back from a worker: rows of a shard, or why it lost what it had."""

    worker: int
    shard: int
    rows: Any = None
    failed: str = ""


class Crew(Protocol):
    """Workers by number. A worker computes its shards in the order in which they are given."""

    size: int

    def give(self, worker: int, shard: int) -> None:
        """Hand a shard to a worker; does not wait."""

    def wait(self, seconds: float) -> list[Outcome]:
        """What came back meanwhile; waits for the first outcome, so long at most."""
        ...

    def replace(self, worker: int) -> None:
        """Another worker in the place of one that is gone or hangs; nothing comes back of what it had."""


def dispatch(
    todo: Iterable[int], crew: Crew, patience: float = PATIENCE, clock: Callable[[], float] = monotonic
) -> Iterator[tuple[int, Any]]:
    """(shard, rows) of all of `todo`, as they come; driver memory holds AHEAD shards a worker.

    A worker that fails, or says nothing for `patience` seconds, costs the shard that it was at: another worker gets it,
    ATTEMPTS times in all. UserError at the end: shards that failed every time, with the last reason of each.
    """
    desk = _Desk(iter(todo), crew, clock)
    desk.fill()
    while desk.busy:
        for outcome in crew.wait(min(patience, 60.0)):
            if outcome.failed:
                desk.fail(outcome.worker, outcome.failed)
            elif desk.take(outcome):
                yield outcome.shard, outcome.rows
        for worker in desk.silent(patience):
            desk.fail(worker, f"no answer for {duration(patience)}")
    if desk.lost:
        told = "; ".join(f"batch {shard + 1} ({why})" for shard, why in sorted(desk.lost.items()))
        raise UserError(
            f"failed {ATTEMPTS} times: {told}; what is done is kept, and the same command tries the rest again"
        )


class _Desk:
    """Who has which shards, and what is to be done yet."""

    def __init__(self, source: Iterator[int], crew: Crew, clock: Callable[[], float]) -> None:
        self.source, self.crew, self.clock = source, crew, clock
        self.queues: list[deque[int]] = [deque() for _ in range(crew.size)]
        self.since = [0.0] * crew.size  # when a worker began with the first of its queue
        self.again: deque[tuple[int, int | None]] = deque()  # a shard, and the worker that it failed with
        self.failures: dict[int, int] = {}
        self.lost: dict[int, str] = {}

    @property
    def busy(self) -> bool:
        return any(self.queues) or bool(self.again)

    def fill(self) -> None:
        """One shard to each worker first, then the ones that wait."""
        for length in range(1, AHEAD + 1):
            for worker in range(self.crew.size):
                self._fill(worker, length)

    def _fill(self, worker: int, length: int = AHEAD) -> None:
        queue = self.queues[worker]
        while len(queue) < length and (shard := self._next(worker)) is not None:
            if not queue:
                self.since[worker] = self.clock()
            self.crew.give(worker, shard)
            queue.append(shard)

    def _next(self, worker: int) -> int | None:
        """What failed elsewhere first, then what is new."""
        for place, (shard, failed_with) in enumerate(self.again):
            if failed_with != worker or self.crew.size == 1:
                del self.again[place]
                return shard
        return next(self.source, None)

    def take(self, outcome: Outcome) -> bool:
        """Whether a result is new; its worker gets the next shard."""
        queue = self.queues[outcome.worker]
        if outcome.shard not in queue:
            return False
        queue.remove(outcome.shard)
        self.since[outcome.worker] = self.clock()
        self._fill(outcome.worker)
        return True

    def silent(self, patience: float) -> list[int]:
        """The workers that have said nothing for so long."""
        now = self.clock()
        return [w for w, queue in enumerate(self.queues) if queue and now - self.since[w] >= patience]

    def fail(self, worker: int, why: str) -> None:
        """A worker is replaced. It loses the shard that it was at; those behind have not failed."""
        queue = self.queues[worker]
        if not queue:
            return
        shard, *behind = queue
        queue.clear()
        self.crew.replace(worker)
        self.failures[shard] = self.failures.get(shard, 0) + 1
        if self.failures[shard] < ATTEMPTS:
            self.again.append((shard, worker))
        else:
            self.lost[shard] = why
        self.again.extendleft((waiting, None) for waiting in reversed(behind))
        self.fill()
