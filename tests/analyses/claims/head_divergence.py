"""Planted rows of head divergence: three of thirty heads lead, one ranking, words that T-VHD tells apart, or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.flow import head_divergence
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from

GROUPS, LAYERS, HEADS, TOKENS = 40, 3, 10, 6
WAY, IMAGE, QUESTION = "dropped", "swapped", "question changed"
OPTIONS = head_divergence.Options(ways=(WAY, IMAGE))
FLAT = np.ones((LAYERS, HEADS))
STEEP = 1 + np.arange(LAYERS * HEADS).reshape(LAYERS, HEADS) / 10
FEW = np.where(np.arange(LAYERS * HEADS).reshape(LAYERS, HEADS) < 3, 10.0, 1.0)


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    maps = {"few heads": FEW, "one ranking": STEEP}.get(name, FLAT)
    gap = 2.0 if holds else -2.0
    return tables_from(
        head_divergence,
        rows(
            maps=maps if holds else FLAT,
            relative=gap if name == "the image, not the prompt" else 0.0,
            words=gap if name == "hallucinated words" else 0.0,
        ),
        OPTIONS,
    )


def rows(
    *,
    maps: np.ndarray = FLAT,
    control: np.ndarray = FLAT,
    relative: float = 0.0,
    words: float = 0.0,
    control_words: float = 0.0,
    groups: int = GROUPS,
    repeats: int = 1,
    seed: int = 0,
) -> Rows:
    """Rows around mean maps of the way and of its controls, noise by group.

    relative: what the way's relative divergence has more than the controls'. words, control_words: what correct words
    have more of T-VHD than hallucinated ones, in noise of 1.
    """
    rng = np.random.default_rng(seed)
    n = groups * repeats

    def noise(*shape: int) -> np.ndarray:
        return np.repeat(rng.normal(size=(groups, *shape)), repeats, axis=0)

    wrong = np.zeros((n, TOKENS))
    wrong[np.arange(n), rng.integers(1, TOKENS, n)] = 1
    right = (1 - wrong) * (np.arange(TOKENS) > 0)
    values = {"hallucinated": wrong, "correct": right, "sentence": np.zeros((n, TOKENS)), "end": wrong * np.nan}
    for way, mean, told in ((WAY, maps, words), (IMAGE, control, control_words), (QUESTION, control, control_words)):
        l2 = mean + 0.1 * noise(LAYERS, HEADS)
        share = 3 + relative * (way == WAY) + 0.1 * noise(LAYERS, HEADS)
        kinds = {"l2": l2, "norms": l2 * 0 + 2, "relative": share, "cosine": share, "odd": l2, "even": l2}
        kinds["t_vhd"] = 5 + told * right + rng.normal(size=(n, TOKENS))
        values |= {f"{way}|{name}": value for name, value in kinds.items()}
    names = [f"g{i:03d}" for i in np.repeat(np.arange(groups), repeats)]
    examples = pd.DataFrame({"id": [f"e{i:03d}" for i in range(n)], "group": names, "condition": "BOS"})
    return Rows(examples, values)
