"""The label of an example: the language or domain that its task gives it, else its kind of question."""

from __future__ import annotations

import numpy as np

from ...data.example import Example
from ...probes.runs.results import Rows

COLUMNS = ("label", "kind")


def label_of(example: Example, by: str = "") -> str:
    """What an example has in column `by`; by default its label, else its kind; "" without."""
    column = by or next((name for name in COLUMNS if name in example.meta), "")
    return str(example.meta.get(column, ""))


def label_column(rows: Rows, by: str = "") -> np.ndarray:
    """Each example's label as in `label_of`, [n] of str: the column of one name for all examples."""
    name = by or next((name for name in COLUMNS if name in rows.examples), "")
    if name not in rows.examples:
        return np.full(len(rows.examples), "")
    found = rows.examples[name]
    return found.astype(str).where(found.notna(), "").to_numpy(str)
