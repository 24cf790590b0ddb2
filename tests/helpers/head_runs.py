"""Planted tables that speak of single heads and MLPs, and runs made of them: for the pages of heads and of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import synthetic

LAYERS, HEADS = 4, 3
EFFECT, ATTENTION = "patched at the last position", "attention on answer"


def by_head(values: np.ndarray, unit: str, **columns: Any) -> pd.DataFrame:
    """[layer, head] or [layer] as rows with an interval of ± .1."""
    axes = np.indices(values.shape)
    places = dict(zip(("layer", "head"), (axis.ravel() for axis in axes), strict=False))
    frame = pd.DataFrame({**places, "value": values.ravel()})
    frame = frame.assign(lower=frame["value"] - 0.1, upper=frame["value"] + 0.1, n=8, n_groups=6, unit=unit)
    return frame.assign(**{"condition": "BOS", "control": "", **columns})


def circuit_tables(
    shift: float = 0.0, shape: tuple[int, int] = (LAYERS, HEADS), seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Effects of heads and MLPs, a circuit of two heads, their halves, words and claims."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=shape) + shift
    effects = [
        by_head(effect, "logits", part="head", measure=EFFECT, p_value=0.04),
        by_head(rng.random(shape), "attention", part="head", measure=ATTENTION, p_value=np.nan),
        by_head(rng.normal(size=shape[:1]), "logits", part="mlp", measure=EFFECT, p_value=0.2),
    ]
    named = [{"layer": 2, "head": 1, "name": "mover"}, {"layer": 1, "head": 0, "name": ""}]
    circuit = [
        {**one, "stage": EFFECT, "rank": rank, "measure": EFFECT, "value": 9.0, "condition": "BOS", "unit": "logits"}
        for rank, one in enumerate(named, start=1)
    ]
    states = pd.DataFrame({"state": range(shape[0] + 1), "value": np.linspace(0, 1, shape[0] + 1) + shift})
    claim = {"text": "Few heads.", "source": "arXiv 2211.00593", "name": "few", "condition": "BOS", "verdict": "holds"}
    numbers = {"value": 0.5 + shift, "lower": 0.4 + shift, "upper": 0.6 + shift, "threshold": 0.3, "margin": 0.2}
    return {
        "effects": pd.concat(effects, ignore_index=True),
        "circuit": pd.DataFrame(circuit),
        "stability": pd.concat([by_head(effect, "logits", measure=EFFECT, half=half) for half in (1, 2)]),
        "lens": states.assign(condition="BOS", control="", unit="probability", n=8, n_groups=6),
        "claims": pd.DataFrame([{**claim, **numbers, "numbers": "0.5", "unit": "share"}]),
    }


def write(
    out: Path,
    tables: dict[str, pd.DataFrame],
    analysis: str = "circuits",
    task: str = "ioi",
    key: str = "0123abcd",
    *,
    subject: dict[str, Any] | None = None,
    of_task: dict[str, Any] | None = None,
    **record: Any,
) -> Path:
    """A complete run under `out`/runs; subject, of_task and record: what stands otherwise in its record."""
    made = synthetic.write_run(out / "made" / key, analysis, task, tables)
    place = out / "runs" / f"{analysis}.{task}.{key}"
    place.parent.mkdir(parents=True, exist_ok=True)
    made.rename(place)
    told = json.loads((place / "record.json").read_text())
    told["subject"] |= {"n_layers": LAYERS, "n_heads": HEADS, **(subject or {})}
    told["task"] |= of_task or {}
    told |= {"name": place.name, "conditions": ["BOS"], "options": {"share": 0.02, "mover_attention": 0.2}, **record}
    (place / "record.json").write_text(json.dumps(told, ensure_ascii=False))
    return place
