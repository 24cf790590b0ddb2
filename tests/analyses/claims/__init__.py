"""Planted tables of every claim: one in which it holds, one in which it fails; see tests/analyses/test_claims.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from crosslens.probes.runs.results import Rows

from ...helpers import tiny


def rows_of(values: Mapping[str, np.ndarray], groups: int, **columns: object) -> Rows:
    """Rows of one condition as a finished run has them, the examples dealt over so many groups."""
    n = len(next(iter(values.values())))
    names = {"id": [f"e{i:03d}" for i in range(n)], "group": [f"g{i % groups:02d}" for i in range(n)]}
    return Rows(pd.DataFrame({**names, "condition": "no BOS", **columns}), dict(values))


def with_words(rows: Rows) -> Rows:
    """The rows with a tokenizer of a few words."""
    return replace(rows, tokenizer=tiny.tokenizer())
