"""Broken rows of a file: the first one stops, or each is left out and named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
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


def first_of(
    rows: Sequence[Row], make: Callable[[Row], Made | None], n: int | None, split: str, broken: list[str] | None
) -> list[Made]:
    """The first n (None: all) of what `make` makes of the rows, those that it makes None of left out.

    split "validation" takes them from the end. broken: as in `sound`. No row behind the last one needed is read.
    """
    ordered = rows[::-1] if split == "validation" else rows
    return list(islice((made for made in sound(ordered, make, broken) if made is not None), n))
