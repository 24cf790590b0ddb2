"""Planted rows of contextual words: tokens named by them alone and from middle layers; and not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import latent_lens
from crosslens.analyses.lenses._latent_rows import IMAGE, LATENT, LENSES, OWN, PLACES, RANDOM, SAME_WORDS, VOCABULARY
from crosslens.analyses.lenses._latent_tables import MIDDLE, MOST

from ...helpers.makers import tables_from
from . import rows_of, with_words

N, GROUPS, LAYERS = 60, 30, (1, 2, 4, 6, 7)
STATES = len(LAYERS) + 2
OPTIONS = latent_lens.Options(shown=1)
LEARNED: dict[str, Any] = {"bank": "made", "occurrences": 200, "words": 50, "layers": LAYERS}


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if holds:
        return tables_of()
    if name == MOST:
        return tables_of(own=0.3)
    return tables_of(middle=0.1) if name == MIDDLE else tables_of(vocabulary=0.95)


def tables_of(
    *,
    own: float = 0.8,
    vocabulary: float = 0.1,
    same: float = 0.2,
    image: float = 0.05,
    middle: float = 0.9,
    random: float = 0.2,
    known: bool = True,
) -> dict[str, pd.DataFrame]:
    """Shares of the objects' tokens that contextual words name, that the vocabulary lens names (same: among the same
    words), and that get words for another picture; middle, random: shares of words of the middle layers at state 0, of
    tokens and of random vectors. known: whether any thing is.
    """
    rng = np.random.default_rng(0)
    at = {LATENT: own, VOCABULARY: vocabulary, SAME_WORDS: same}
    shares = {f"named|{lens}|{place}": 0.05 for lens in LENSES for place in (*PLACES, RANDOM)}
    shares |= {f"named|{lens}|{OWN}": at.get(lens, 0.3) for lens in LENSES} | {f"named|{LATENT}|{IMAGE}": image}
    shares = {name: s for name, s in shares.items() if RANDOM not in name or LATENT in name.split("|")}
    values = {name: np.clip(s + 0.02 * rng.normal(size=(N, STATES)), 0, 1) for name, s in shares.items()}
    values[f"named|{LATENT}|{OWN}"][:, 0] = 0.5  # state 0 does not count
    if not known:
        values = {name: np.full((N, STATES), np.nan) for name in values}
    tokens = (N, STATES, 10)
    for name, share in (("layer", middle), ("random layer", random)):
        values[name] = np.where(rng.random(tokens) < share, 2, 0).astype(float)
    said = {f"said|{lens}": rng.integers(0, 5, tokens).astype(float) for lens in (*LENSES, RANDOM)}
    values |= said | {"vocabulary": np.full(tokens, 4.0), "ids": np.full((*tokens, 1), 5.0)}
    values |= {"values": np.full((*tokens, 1), 0.5), "cosine": np.full((N, STATES), 0.5)}
    values |= {"margin": np.full((N, STATES), 0.1), "picture": np.zeros((N, 2, 2, 3), np.uint8)}
    values |= {"grid": np.tile([2.0, 5.0], (N, 1)), "cell": np.tile(np.arange(10.0), (N, 1)), "unplaced": np.zeros(N)}
    rows = with_words(rows_of(values, GROUPS))
    return tables_from(latent_lens, rows, OPTIONS, **LEARNED)
