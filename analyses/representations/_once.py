"""What several makers of a condition ask for, made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import ref

from ...probes.runs.results import Rows

T = TypeVar("T")


def once(make: Callable[[Rows, Any], T]) -> Callable[[Rows, Any], T]:
    """`make(rows, options)`, which remembers its last answer while those rows live."""
    last: list[tuple[ref[Rows], Any, T]] = []

    def asked(rows: Rows, options: Any) -> T:
        if not (last and last[0][0]() is rows and last[0][1] == options):
            last[:] = [(ref(rows), options, make(rows, options))]
        return last[0][2]

    asked.__doc__ = make.__doc__
    return asked
