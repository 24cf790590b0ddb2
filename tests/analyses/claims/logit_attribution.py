"""Planted rows of direct logit attribution: heads 5.1 and 5.2 of 6 × 20 write the answer, and copy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.lenses import logit_attribution
from crosslens.probes.runs.results import Rows

from ...helpers import tiny
from ...helpers.makers import tables_from
from .circuits import task

N, GROUPS, SHAPE = 60, 20, (6, 20)


def rows(layer: int = 5, heads: int = 2) -> Rows:
    """`heads` heads of a layer add 3 logits each, all others ±.05."""
    rng = np.random.default_rng(0)
    examples, _ = task(rng, N, GROUPS)
    difference = np.where(rng.random(SHAPE) < 0.5, 0.05, -0.05) + rng.normal(0, 0.01, (N, *SHAPE))
    difference[:, layer, 1 : 1 + heads] += 3 + rng.normal(0, 0.2, (N, heads))
    both = np.stack([difference, difference], 1)
    zeros = {"attention bias": np.zeros((N, 2, 6)), "mlp": np.zeros((N, 2, 6))}
    zeros |= {"embedding": np.zeros((N, 2)), "final bias": np.zeros((N, 2))}
    copying = rng.uniform(-0.2, 0.2, SHAPE)
    copying[layer, 1], copying[layer, 2] = 0.9, 0.8
    weights = {"copying": copying} | {f"{side}_ids": np.zeros((*SHAPE, 1, 1)) for side in ("reads", "promotes")}
    weights |= {f"{side}_values": np.zeros((*SHAPE, 1, 1)) for side in ("reads", "promotes")}
    weights["strength"] = np.ones((*SHAPE, 1))
    return Rows(examples, {"heads": both, "logit": both.sum((2, 3))} | zeros, weights, tiny.tokenizer())


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    made = rows(layer=1 if name == "late" and not holds else 5)
    if name == "few" and not holds:  # every head adds as much
        rng = np.random.default_rng(1)
        made.values["heads"] = np.stack([1 + rng.normal(0, 0.1, (N, *SHAPE))] * 2, 1)
        made.values["logit"] = made["heads"].sum((2, 3))
    if name == "copy" and not holds:
        made.weights["copying"][5, 1:3] = -0.9, -0.8
    return tables_from(logit_attribution, made, logit_attribution.Options(words=0))
