"""A data set of the Hugging Face hub, by its columns"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..example import Example
from ..local_or_hub import hub_rows
from ..own_rows import Columns, Reading, examples_of

VERSION = 1
TEMPLATE = "chat"
BOS = None  # as the tokenizer does by itself
SPELLING = "free"  # answers are read in the model's own spelling
SOURCE = "a data set of the Hugging Face hub"


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    template: str = TEMPLATE,
    broken: list[str] | None = None,
    path: str = "",
    revision: str = "",
    config: str = "",
    question: str = "",
    prefix: str | None = None,
    split: str = "test",
    **columns: str,
) -> list[Example]:
    """The rows of OWNER/SET:SPLIT in order (default: all), read by `datasets`, which is imported only here.

    path: OWNER/SET:SPLIT, or DIRECTORY:SPLIT of a set that lies here. revision, config: the set's. Columns and all else
    as `file`: prompt=question, answer=label say how the set calls them. UserError: no `datasets`, a set that cannot be
    got, a column that does not hold what it should, by row.
    """
    place, _, part = path.rpartition(":")
    if not (place and part):
        raise UserError("task hub needs a set and its split: --task hub:OWNER/SET:SPLIT")
    rows = hub_rows(place, part, revision, "hub", config)
    if not rows:
        raise UserError(f"{place}, split {part}, has no rows")
    reading = Reading(place.split("/")[-1], Columns(**columns), Path(), question, prefix, template, rows[0])
    return examples_of(rows, reading, n=n, split=split, broken=broken)


def named(path: str = "", **others: Any) -> str:
    """What a run calls the task: the set and its split, without who or where it is from."""
    return path.rstrip("/").rsplit("/", 1)[-1]
