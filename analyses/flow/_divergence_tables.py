"""Tables of `head_divergence`, every way of taking the image away in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from ...probes.runs.results import How, Rows
from . import _divergence_heads, _divergence_words
from ._divergence_heads import (
    QUESTION_CHANGED,
)


def _by_way(make: Callable[[Rows, str, Any], pd.DataFrame]) -> Callable[[Rows, How], pd.DataFrame | None]:
    """A maker whose table has the rows of every way that was measured, with a column way."""

    def maker(rows: Rows, how: How) -> pd.DataFrame | None:
        ways = [way for way in (*how.options.ways, QUESTION_CHANGED) if f"{way}|l2" in rows.values]
        frames = [make(rows, way, how.options).assign(way=way) for way in ways]
        return pd.concat(frames, ignore_index=True) if frames else None

    return maker


def _margins(rows: Rows, how: How) -> pd.DataFrame | None:
    """A number of stability or auroc minus the same number of a control, paired."""
    parts = [_by_way(make)(rows, how) for make in (_divergence_heads.margins, _divergence_words.margins)]
    parts = [part for part in parts if part is not None]
    return pd.concat(parts, ignore_index=True) if parts else None


TABLES = {
    "heads": (_by_way(_divergence_heads.heads), ("measure", "way")),
    "layers": (_by_way(_divergence_heads.layers), ("measure", "way")),
    "excess": (_by_way(_divergence_heads.excess), ("measure", "p_family", "way")),
    "stability": (_by_way(_divergence_heads.stability), ("measure", "way")),
    "words": (_by_way(_divergence_words.histograms), ("bin", "kind", "level", "left", "right", "way")),
    "auroc": (_by_way(_divergence_words.auroc), ("level", "n_correct", "n_hallucinated", "way")),
    "captions": (_by_way(_divergence_words.captions), ("example", "position", "token", "kind", "way")),
    "margins": (_margins, ("measure", "way")),
}
