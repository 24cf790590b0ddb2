"""What runs, how much is left, how long it may take: a bar in a terminal or notebook, a line now and then in a log.

Everything that takes longer than a batch says so through here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
LINES_EVERY = 30.0  # seconds between two lines of a log


@contextmanager
def progress(what: str, total: int, done: int = 0, unit: str = "batches") -> Iterator[Callable[[int], object]]:
    """Gives a function that counts what is done.

    what: what runs, in the words of the command line. done: what an earlier process did, which says nothing of how
    long the rest takes.
    """
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        with tqdm(desc=what, total=total, initial=done, unit=f" {unit}") as bar:
            yield bar.update
    else:
        yield _Log(what, total, done, unit).count


def tracked(items: Collection[Item], what: str, unit: str = "batches", done: int = 0) -> Iterator[Item]:
    """The items one after the other, each counted when the next is asked for. done: as in `progress`."""
    with progress(what, done + len(items), done, unit) as count:
        for item in items:
            yield item
            count(1)


def duration(seconds: float) -> str:
    """A length of time as one says it: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Log:
    """Lines on stderr, none for what is soon over. The first item may wait for workers: the pace is of those behind."""

    def __init__(self, what: str, total: int, done: int, unit: str) -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.said = monotonic()
        self.first: tuple[float, int] | None = None  # when the first was done, and how many were then

    def count(self, count: int) -> None:
        self.done += count
        now = monotonic()
        if now - self.said >= LINES_EVERY and self.done < self.total:
            self.said = now
            print(f"{self.what}: {self.done} of {self.total} {self.unit}{self._left(now)}", file=sys.stderr, flush=True)
        self.first = self.first or (now, self.done)

    def _left(self, now: float) -> str:
        if self.first is None:
            return ""
        began, before = self.first
        return f", about {duration((now - began) / (self.done - before) * (self.total - self.done))} left"
