"""Planted rows of attention_profile: heads of every width, a neighbourhood, maps whose rank tells layers apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.attention import attention_profile
from crosslens.analyses.attention._profile_maps import LAW
from crosslens.analyses.attention._profile_rows import INDICATORS, LENGTHS
from crosslens.analyses.common.controls import SHUFFLED_KEYS, SHUFFLED_PROMPT

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, HEADS = 40, 20, 4, 10


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        sharp=0.6 if wrong == "heads in the middle" else 0.0,
        local=-0.1 if wrong == "attention is local" else 0.1,
        fall=0.1 if wrong == "wider in long contexts" else -0.1,
        by_rank=0.02 if wrong == "layers by rank" else 0.4,
        apart=0.05 if wrong == "heads are apart" else 0.4,
        trivial=0.1 if wrong == "trivial patterns" else 0.5,
        skew=1.0 if wrong == "about log-normal" else 0.1,
    )


def tables_of(
    *,
    sharp: float = 0.0,
    local: float = 0.1,
    fall: float = -0.1,
    fall_shuffled: float = 0.0,
    by_rank: float = 0.4,
    by_rank_shuffled: float = 0.0,
    apart: float = 0.4,
    trivial: float = 0.5,
    skew: float = 0.1,
    longest: int = 7,
    maps: bool = True,
    pictures: bool = False,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """sharp: share of the heads that are. local, trivial: over uniform attention. fall: of entropy over ln keys from
    rows of 16 keys to the longest bin. by_rank: how far ranks go apart over layers. apart, skew: as measured.
    """
    rng = np.random.default_rng(seed)

    def drawn(value: Any, *shape: int) -> np.ndarray:
        return value + 0.005 * rng.normal(size=(N, *shape))

    heads, layers = (LAYERS, HEADS), np.linspace(0.0, 1.0, LAYERS)
    width = np.where(np.arange(HEADS) < sharp * HEADS, 0.2, 1.5 + 0.3 * rng.normal(size=(N, *heads)))
    width[..., -1] = 3.0  # the largest
    values = {name: drawn(0.2, *heads) for name in INDICATORS}
    values |= {f"even|{name}": drawn(0.1, LAYERS) for name in INDICATORS}
    values |= {"entropy": drawn(width, *heads), "even|entropy": drawn(4.0, LAYERS)}
    values["before, twin"] = drawn(0.1 + local, *heads)
    values |= {"trivial": drawn(0.1 + trivial, *heads), "even|trivial": drawn(0.1, LAYERS), "gap": drawn(0.5, *heads)}
    values |= {"entropy of mean": drawn(2.5, LAYERS), "diversity": drawn(0.1, LAYERS)}
    for name, slope in (("", fall), (f"|{SHUFFLED_PROMPT}", fall_shuffled)):
        bins = 0.6 + slope * np.clip(np.arange(LENGTHS) - 4, 0, None) / max(longest - 4, 1)
        bins[longest + 1 :] = np.nan
        values |= {f"by length{twin}{name}": drawn(bins, LAYERS, LENGTHS) for twin in ("", ", twin")}
    if pictures:  # which are not shuffled
        values = {name: rows for name, rows in values.items() if SHUFFLED_PROMPT not in name}
    if maps:
        values["tokens"] = np.full(N, 24.0)
        for name, size in (("", by_rank), (f"|{SHUFFLED_KEYS}", by_rank_shuffled)):
            values |= {
                f"{kind}{name}": drawn((0.2 + size * layers)[:, None], *heads) for kind in ("rank", "effective rank")
            }
        for kind in ("apart", "apart, twin"):
            values |= {kind: drawn(apart, LAYERS), f"{kind}|{SHUFFLED_KEYS}": drawn(0.03, LAYERS)}
        values |= {name: drawn(skew, *heads) for name in LAW}
    return tables_from(attention_profile, rows_of(values, GROUPS))
