"""Your own examples, from a file or a folder of pictures"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..example import Example
from ..own_files import rows_of
from ..own_rows import Columns, Reading, examples_of

VERSION = 1
TEMPLATE = "raw"
BOS = None  # as the tokenizer does by itself
SPELLING = "free"  # answers are read in the model's own spelling
SOURCE = "a file of the user's"


def examples(
    n: int | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    template: str = TEMPLATE,
    broken: list[str] | None = None,
    path: str = "",
    question: str = "",
    pictures: str = "",
    prefix: str | None = None,
    split: str = "test",
    **columns: str,
) -> list[Example]:
    """The rows of a .jsonl, .csv or .tsv file, or the pictures of a folder with one question, in order (default: all).

    The columns, all but `prompt` optional, each under another name where one is given (prompt=question); YOUR_DATA.md
    says what they hold. A folder has the columns image, name and folder (that of the picture). path: the file or the
    folder. question: the prompt of every row instead of a column. pictures: the folder that pictures are named from, by
    default the file's. prefix: what stands before the answers; without it a space where the prompt ends in none. split
    "validation" gives rows from the end. broken: takes the rows that are left out; without it the first one stops.
    Further columns are meta. UserError: by file, line and column.
    """
    if not path:
        raise UserError("task file needs a file or a folder: --task file:PATH")
    where = Path(path).expanduser()
    rows = rows_of(where)
    home = Path(pictures).expanduser() if pictures else where if where.is_dir() else where.parent
    reading = Reading(where.stem, Columns(**columns), home, question, prefix, template, rows[0])
    return examples_of(rows, reading, n=n, split=split, broken=broken)


def named(path: str = "", **others: Any) -> str:
    """What a run calls the task: the file's name."""
    return Path(path).expanduser().resolve().name
