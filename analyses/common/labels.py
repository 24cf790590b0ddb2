"""The label of an example: the language or domain that its task gives it, else its kind of question."""

from __future__ import annotations

import numpy as np

from ...data.example import Example
from ...probes.runs.results import Rows

COLUMNS = ("label", "kind")


def label_of(example: Example) -> str:
    """ "" without one."""
    return str(next((example.meta[name] for name in COLUMNS if name in example.meta), ""))


def label_column(rows: Rows) -> np.ndarray:
    """Each example's label as in `label_of`, [n] of str: the column of one name for all examples."""
    name = next((name for name in COLUMNS if name in rows.examples), "")
    if not name:
        return np.full(len(rows.examples), "")
    found = rows.examples[name]
    return found.astype(str).where(found.notna(), "").to_numpy(str)
