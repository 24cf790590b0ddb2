"""Planted rows of the patchscope: shares of prompts whose next token each way of reading names."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import patchscope
from crosslens.analyses.lenses._patchscope_tables import LOGIT, OTHER, PATCHED, RANDOM

from ...helpers.makers import tables_from
from . import rows_of

N, LAYERS = 60, 8


def tables_of(
    own: float = 0.7, lens: float = 0.2, other: float = 0.02, random: float = 0.0, groups: int = 20
) -> dict[str, pd.DataFrame]:
    rng, values = np.random.default_rng(0), {}
    for way, share in ((PATCHED, own), (LOGIT, lens), (OTHER, other), (RANDOM, random)):
        named = (rng.random((N, LAYERS)) < share).astype(float)
        values |= {f"{way}|named": named, f"{way}|rank": np.where(named > 0, 0, rng.integers(1, 900, named.shape))}
    return tables_from(patchscope, rows_of(values, groups=groups))


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    return tables_of() if holds else tables_of(own=0.2, lens=0.7)
