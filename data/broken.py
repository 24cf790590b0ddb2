"""Broken rows of a file: the first one stops, or each is left out and named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .errors import UserError

Row = TypeVar("Row")
Made = TypeVar("Made")


def sound(rows: Iterable[Row], make: Callable[[Row], Made], broken: list[str] | None) -> Iterator[Made]:
    """What `make` makes of each row.

    broken: None lets the first UserError through; a list takes its line, and the row is left out.
    """
    for row in rows:
        try:
            made = make(row)
        except UserError as error:
            if broken is None:
                raise
            broken.append(str(error))
        else:
            yield made
