"""Planted rows of visual_exit: an image that may go behind two thirds of the layers, and one that may not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.common.controls import IMAGE as ANOTHER
from crosslens.analyses.redundancy import visual_exit
from crosslens.analyses.redundancy._exit_rows import TEXT

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS = 80, 40, 12  # fewer groups cannot show more than nine tenths


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        read_at=11 if wrong == "the image may go" else 6, gain=-1.0 if wrong == "the image is used before" else 1.0
    )


def tables_of(
    *,
    read_at: int = 6,
    gain: float = 1.0,
    blind: float = 0.2,
    text: float = 0.1,
    words: bool = False,
    answers: bool = True,
) -> dict[str, pd.DataFrame]:
    """read_at: the layer that reads the image. gain: what reading it spares of the loss. blind: the share of answers
    that stay without it. text: what random text that is removed costs; words: answers go with it as with the image.
    """
    rng = np.random.default_rng(0)
    through = np.arange(LAYERS + 1) > read_at
    stays = np.where(through, 1.0, rng.random((N, 1)) < blind)
    lost = np.where(through, 0.0, gain) + 0.01 * rng.normal(size=(N, LAYERS + 1))
    values = {"exit|": _read(stays, lost), f"exit|{ANOTHER}": _read(stays, 2 * lost)}
    values[f"exit|{TEXT}"] = _read(
        stays if words else np.ones_like(stays), np.where(through, 0.0, text) + 0.001 * rng.random(lost.shape)
    )
    if not answers:
        for rows in values.values():
            rows[..., 1:] = np.nan
    return tables_from(visual_exit, rows_of(values, GROUPS))


def _read(stays: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """READ: agreement, loss, clean loss, allowed."""
    return np.stack([stays, 2 + lost, np.full_like(lost, 2.0), stays], -1)
