"""Planted tables of single neurons, and runs made of them: for the page of their cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import head_runs

LABELS = ("English", "French")
PLACES = ((1, 7), (2, 0), (2, 40), (3, 5))  # the first two are English, the others French
WIDTH = 48
SCORE, ACTIVE = "SASC score", "share of tokens that activate it"


def tables(seed: int = 0, condition: str = "no BOS") -> dict[str, pd.DataFrame]:
    """The four tables that cards are made of."""
    rng = np.random.default_rng(seed)
    named = [{"layer": a, "neuron": b, "label": LABELS[i // 2]} for i, (a, b) in enumerate(PLACES)]
    cards = [
        {**one, "texts": texts, "measure": measure, "value": rng.random() + (texts == one["label"]), "unit": unit}
        for measure, unit in ((ACTIVE, "share of tokens"), (SCORE, "σ"))
        for texts in LABELS
        for one in named
    ]
    frame = pd.DataFrame(cards).assign(condition=condition, n=16, n_groups=8)
    neurons = pd.DataFrame(named).assign(condition=condition, n=160, unit="share of tokens", value=0.5, others=0.1)
    places = pd.DataFrame(named).drop(columns="label").assign(rank=1, unit="activation", value=rng.random(4))
    return {
        "cards": frame.assign(lower=frame["value"] - 0.1, upper=frame["value"] + 0.1),
        "neurons": neurons.assign(entropy=rng.random(4), reads="the · of", writes=" Paris · city"),
        "contexts": places.assign(
            side=["above 0", "below 0", "above 0", "above 0"], before="the capital\nof", peak=" France", behind=" is"
        ),
        "ngrams": places.assign(side="above 0", n=3, ngram="of France"),
    }


def write(out: Path, planted: dict[str, pd.DataFrame], key: str = "0123abcd", **record: Any) -> Path:
    """A complete run of `neurons` under `out`/runs."""
    told = {"fitted": {"width": WIDTH}} | record
    named = {name: table.assign(subject="smollm2") for name, table in planted.items()}
    return head_runs.write(out, named, "neurons", "texts", key, **told)
