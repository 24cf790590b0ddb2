"""Which weights image tokens and text tokens use, and how far they are the same; folds of groups are the groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import NothingToMeasure
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import EXCHANGED
from ..common.frames import by_weights, joined
from ..common.tested import nothing
from ._once import once
from ._subnetworks_rows import READS, SETS

UNIT = "IoU of kept weights"
CHANNELS, RANDOM, HALVES = "channels permuted", "random masks", "two halves of one kind of token"
ALIKE, OWN = "image and text use the same weights", "each has weights of its own"
Sums = dict[str, np.ndarray]


class Overlaps:
    """IoU of the weights that images and texts keep, by folds that count so often; each asked for once."""

    def __init__(self, rows: Rows, share: float) -> None:
        self.rows, self.share = rows, share
        self._known: dict[tuple[str, bytes], np.ndarray] = {}

    def of(self, weights: np.ndarray, against: str = "") -> np.ndarray:
        """[layer, matrix], NaN where a layer lacks one.

        against: "" the measured sets; CHANNELS: the text's norms at other channels; EXCHANGED: image and text exchanged
        in every second fold; HALVES: of each set, the folds of even against those of odd number, mean of both sets.
        """
        key = against, np.asarray(weights, float).tobytes()
        if key not in self._known:
            columns = [_of_matrix(self.rows, name, self.share, weights, against) for name in _matrices(self.rows)]
            self._known[key] = np.stack(columns, 1)
        return self._known[key]

    def mean(self, weights: np.ndarray, against: str = "") -> float:
        return float(np.nanmean(self.of(weights, against)))


@once
def _overlaps(rows: Rows, options: Any) -> Overlaps:
    return Overlaps(rows, options.sparsity)


def _matrices(rows: Rows) -> list[str]:
    return [name for name in READS if name in rows.weights]


def _of_matrix(rows: Rows, name: str, share: float, weights: np.ndarray, against: str) -> np.ndarray:
    image, text = (rows.sums[f"{one}|{READS[name]}"] for one in SETS)
    odd = (np.arange(len(image)) % 2 == 1)[:, None, None]
    if against == EXCHANGED:
        image, text = np.where(odd, text, image), np.where(odd, image, text)
    pairs = [(one * ~odd, one * odd) for one in (image, text)] if against == HALVES else [(image, text)]
    counted = [[np.tensordot(weights, one, 1) for one in pair] for pair in pairs]
    return np.mean([_iou(rows.weights[name], pair[0], pair[1], share, against) for pair in counted], 0)


def _iou(rows: np.ndarray, first: np.ndarray, second: np.ndarray, share: float, against: str) -> np.ndarray:
    """[layer]"""
    found = np.full(len(rows), np.nan)
    for layer, weight in enumerate(rows):
        if np.isnan(weight).any() or not (first[layer].any() and second[layer].any()):
            continue
        one, other = first[layer], second[layer]
        if against == CHANNELS:
            other = other[np.random.default_rng(layer).permutation(len(other))]
        kept = [metrics.used_weights(_tensor(weight), _tensor(np.sqrt(x))[None], share) for x in (one, other)]
        found[layer] = float(metrics.mask_overlap(*kept))
    return found


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def random_iou(share: float) -> float:
    """Of random masks that keep 1 − share of the weights: r / (2 − r)."""
    return (1 - share) / (1 + share)


def _overlap(rows: Rows, how: How) -> pd.DataFrame:
    """By layer and matrix, with its controls. NothingToMeasure: no images."""
    _require(rows)
    found = _overlaps(rows, how.options)
    axes: dict[str, Any] = {"layer": range(len(next(iter(rows.weights.values())))), "matrix": _matrices(rows)}
    frames = []
    for against in ("", CHANNELS, HALVES):
        frames.append(_by_folds(rows, lambda w, a=against: found.of(w, a), axes, control=against))
    return joined(
        [*frames, frames[0].assign(value=random_iou(found.share), lower=np.nan, upper=np.nan, control=RANDOM)]
    )


def _require(rows: Rows) -> None:
    image = rows.sums.get(f"{SETS[0]}|{READS['O']}")
    if image is None or not image.any():
        raise NothingToMeasure("subnetworks: no example has an image; --task scenes has pictures")


def _by_folds(rows: Rows, statistic: Any, axes: dict[str, Any], **columns: Any) -> pd.DataFrame:
    folds = len(rows.folds)
    several = lambda weights: np.stack([np.ravel(statistic(one)) for one in weights])  # noqa: E731
    return by_weights(several, folds, axes, UNIT, n=len(rows.examples), **columns)


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    if len(rows.folds) < 2 or not rows.sums[f"{SETS[0]}|{READS['O']}"].any():
        return pd.concat([nothing(claim, "no images, or all in one group") for claim in (ALIKE, OWN)])
    found, chance = _overlaps(rows, how.options), random_iou(how.options.sparsity)
    numbers: tuple[tuple[str, str, Callable[[np.ndarray], float]], ...] = (
        (ALIKE, "", lambda w: found.mean(w) - chance),
        (ALIKE, CHANNELS, lambda w: found.mean(w) - found.mean(w, CHANNELS)),
        (OWN, "", lambda w: found.mean(w, HALVES) - found.mean(w)),
        (OWN, EXCHANGED, lambda w: found.mean(w, EXCHANGED) - found.mean(w)),
    )
    frames = [_by_folds(rows, of, {}, claim=claim, than=than, untestable="") for claim, than, of in numbers]
    return pd.concat(frames, ignore_index=True)


TABLES = {"overlap": (_overlap, ("matrix",)), "tested": (_tested, ("claim", "than", "untestable"))}
