"""Planted rows of attribution: maps and attention that name what the answer needs, or something else."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from crosslens.analyses.attribution import attribution
from crosslens.analyses.attribution._game import TARGETS
from crosslens.analyses.attribution._methods import ABLATION, IG, METHODS
from crosslens.analyses.attribution._rows import ATTENTION, ORDERED, ORDERS, RANDOM, WEIGHTED
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from
from . import rows_of, with_words

N, GROUPS, LAYERS, HEADS, WORDS = 40, 20, 6, 3, 8
POINTS = 5
AREA = {IG: -3.0, ABLATION: -4.0, ATTENTION: -2.0, RANDOM: -1.0}  # mean log p over a deletion


def rows(kind: str = "") -> Rows:
    """kind "": attention follows saliency by half, later layers more; "elsewhere": it follows its opposite; "all":
    every head is saliency; "early": earlier layers follow it more; "one head": a head follows it and the others what
    it is not; "fixed": every example has the same saliency; "worse": integrated gradients delete what is not needed and
    attention what is.
    """
    rng = np.random.default_rng(0)
    saliency = np.tile(rng.random(WORDS), (N, 1)) if kind == "fixed" else rng.random((N, WORDS))
    values = {"saliency": np.concatenate([np.full((N, 1), 3.0), saliency], 1)}
    looks = _looks(kind, saliency - saliency.mean(1, keepdims=True), rng)
    first = np.full((*looks.shape[:-1], 1), 0.5)
    values |= {f"look/{name}": np.concatenate([first, looks], -1) for name in (ATTENTION, WEIGHTED)}
    values |= {"kind": np.zeros((N, WORDS)), "owner": np.tile(np.arange(-1.0, WORDS), (N, 1))}
    values |= {"ids": np.tile(np.arange(4.0, 5 + WORDS), (N, 1)), "alone": np.zeros(N)}
    values["ends"] = np.tile([[-0.5, 2.0], [-8.5, 0.0]], (N, 1, 1)) + 0.1 * rng.normal(size=(N, 2, 2))
    values |= {f"map/{m}/{t}": saliency + 0.1 * rng.normal(size=saliency.shape) for m in METHODS for t in TARGETS}
    values["marked/subject"] = np.tile(np.arange(WORDS) == 0, (N, 1)).astype(float)
    return with_words(rows_of(values | _curves(kind, rng), groups=GROUPS))


def _looks(kind: str, saliency: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n, layer, h, word]"""
    noise = rng.normal(size=(N, LAYERS, HEADS, WORDS))
    follows = np.linspace(0.2, 1.0, LAYERS)
    if kind == "early":
        follows = follows[::-1]
    if kind == "elsewhere":
        follows = -follows
    strength = np.tile(follows[:, None], (1, HEADS))
    if kind == "one head":  # a strong map against what saliency is, and weak ones that are saliency itself
        strength = np.tile([-3.0, 0.4, 0.4], (LAYERS, 1))
        return strength[None, :, :, None] * saliency[:, None, None] + 0.01 * noise
    if kind == "all":
        return np.tile(saliency[:, None, None], (1, LAYERS, HEADS, 1)) + 0.01 * noise
    return strength[None, :, :, None] * saliency[:, None, None] + 0.5 * noise + 0.4 * rng.normal(size=(N, 1, 1, WORDS))


def _curves(kind: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    area = AREA | ({IG: 0.5, ATTENTION: -6.0} if kind == "worse" else {})
    made = {}
    for curve in ORDERS:
        for method in (*ORDERED, ATTENTION, WEIGHTED, RANDOM):
            height = area.get(method, -3.0) * (1 if curve == "deletion" else -1)
            made[f"curve/{curve}/{method}"] = height + 0.1 * rng.normal(size=(N, POINTS + 1))
    return made


FAILING = {
    "attention explains": "elsewhere",
    "attention is not all": "all",
    "mean over heads": "one head",
    "later layers": "early",
    "attention loses the deletion": "worse",
    "gradients find it": "worse",
}


@cache
def tables_of(kind: str) -> dict[str, pd.DataFrame]:
    return tables_from(attribution, rows(kind))


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    return tables_of("" if holds else FAILING[name])
