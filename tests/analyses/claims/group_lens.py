"""Planted rows of word groups: English among likely words and as the answer's concept, or the answer's own language."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import group_lens
from crosslens.analyses.lenses._group_concepts import OTHERS, SPOKEN
from crosslens.analyses.lenses._group_tables import LIKELY

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, STATES = 60, 30, 13


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if holds:
        return tables_of()
    return tables_of(english=0.1) if name == LIKELY else tables_of(thought=-0.1)


def tables_of(
    *,
    english: float = 0.8,
    twins: float = 0.5,
    thought: float = 0.4,
    target: float = 0.05,
    said: float = 0.6,
    english_prompts: bool = False,
) -> dict[str, pd.DataFrame]:
    """english, twins: shares of English among likely words, and of words near in id. thought: how much more probable
    the concept's English word is inside than other concepts'. target: the same of the answer's word; said: at the end.
    """
    rng = np.random.default_rng(0)

    def noise() -> np.ndarray:
        return 0.01 * rng.normal(size=(N, STATES))

    values: dict[str, np.ndarray] = {"kl": 1 + noise()}
    for name, share, other in (("English", english, twins), ("French", 1 - english, 1 - twins)):
        values |= {name: 0.1 + noise(), f"{name}|random": 0.01 + noise(), f"size|{name}": np.full(N, 10.0)}
        values[f"top|{name}"] = rng.binomial(10, share, (N, STATES)).astype(float)
        values[f"top|{name}|random"] = rng.binomial(10, other, (N, STATES)).astype(float)
    inner = (np.arange(STATES) >= STATES // 2) & (np.arange(STATES) < STATES - 1)
    last = np.arange(STATES) == STATES - 1
    heights = (0.1 + thought * inner, 0.1 + target * inner + (said - 0.1) * last)
    for word, height in zip(SPOKEN, heights, strict=True):
        values[f"concept|{word}"] = height + noise()
        values[f"concept|{word}|{OTHERS}"] = 0.1 + noise()
    relation = "English to French" if english_prompts else "German to French"
    return tables_from(group_lens, rows_of(values, GROUPS, target="French", relation=relation))
