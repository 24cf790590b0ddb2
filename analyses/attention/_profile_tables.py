"""Tables of attention_profile: indicators by head, curves by layer, entropy by context, ranks and divergence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.controls import SHUFFLED_KEYS, SHUFFLED_PROMPT, UNIFORM
from ..common.frames import by_head, joined, mean_of_present, summarise
from ._profile_maps import LAW, even_ranks
from ._profile_rows import LENGTHS
from ._profile_tested import CEILING, OBSERVED, overload, tested

WORDS = {
    "entropy": ("entropy", "nats"),
    "twin entropy": ("entropy, sink twin", "nats"),
    "squares": ("concentration: Σ A² of a row", "share of attention"),
    "first": ("attention on the first token", "share of attention"),
    "distance 0": ("attention on the own token", "share of attention"),
    "distance 1": ("attention on the token before", "share of attention"),
    "distance 2": ("attention two tokens back", "share of attention"),
    "distance 3": ("attention three tokens back", "share of attention"),
    "before, twin": ("attention on the token before, sink twin", "share of attention"),
    "trivial": ("R² of own, previous and first token", "share of variance"),
    "gap": ("spectral gap", "1 − largest self-attention"),
}
MAPS = {
    "rank": ("rank", "share of the largest possible"),
    "effective rank": ("effective rank", "share of the largest possible"),
    "apart": ("divergence of two heads", "nats"),
    "apart, twin": ("divergence of two heads, sink twin", "nats"),
}


def _indicators(rows: Rows, how: How) -> pd.DataFrame:
    """By head, beside the same of uniform attention."""
    frames = []
    for name, (measure, unit) in WORDS.items():
        kinds = {"": rows[name]}
        if f"even|{name}" in rows.values:
            kinds[UNIFORM] = np.broadcast_to(rows[f"even|{name}"][..., None], rows[name].shape)
        for control, values in kinds.items():
            frames.append(by_head(rows, values, unit, measure=measure, control=control))
    return joined(frames)


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """Mean over a layer's heads, beside uniform attention; the entropy of their mean, and how much heads differ."""
    frames = []
    for name, (measure, unit) in WORDS.items():
        values = {"": rows[name].mean(2)}
        if f"even|{name}" in rows.values:
            values[UNIFORM] = rows[f"even|{name}"]
        frames += [by_head(rows, one, unit, measure=measure, control=control) for control, one in values.items()]
    frames.append(by_head(rows, rows["entropy of mean"], "nats", measure="entropy of the heads' mean", control=""))
    frames.append(by_head(rows, rows["even|entropy"], "nats", measure="entropy of the heads' mean", control=UNIFORM))
    told: dict[str, Any] = {"measure": "deviation between heads, mean over entries", "control": ""}
    return joined([*frames, by_head(rows, rows["diversity"], "attention", **told)])


def _lengths(rows: Rows, how: How) -> pd.DataFrame:
    """Entropy over ln of the keys in view, mean over layers and heads, by the number of keys (doublings); 1: uniform.

    As many keys as the entropy is worth, exp H, is this power of the number of keys.
    """
    frames = []
    for name, measure in (("by length", "entropy / ln keys"), ("by length, twin", "entropy / ln keys, sink twin")):
        for control in ("", SHUFFLED_PROMPT):
            key = f"{name}|{control}" if control else name
            if key in rows.values:
                values = mean_of_present(rows[key], 1)
                axes: dict[str, Any] = {"keys": 2 ** np.arange(LENGTHS)}
                told: dict[str, Any] = {"measure": measure, "control": control}
                frames.append(summarise(values, rows.examples["group"], axes, "share of uniform", **told))
    return joined(frames)


def _overload(rows: Rows, how: How) -> pd.DataFrame:
    """Of a prompt's heads the share above ¾, and between ¼ and ¾, of the largest entropy: of a head, or of uniform."""
    frames = []
    for yardstick in (OBSERVED, CEILING):
        above, between = overload(rows, yardstick)
        for part, values in (("overloaded: above ¾", above), ("between ¼ and ¾", between)):
            told: dict[str, Any] = {"part": part, "yardstick": yardstick}
            frames.append(summarise(values, rows.examples["group"], {}, "share of heads", **told))
    return pd.concat(frames, ignore_index=True)


def _maps(rows: Rows, how: How) -> pd.DataFrame | None:
    """Ranks (mean over heads) and divergence of heads by layer, of the first tokens; shuffled and uniform rows."""
    if "rank" not in rows.values:
        return None
    frames = []
    for name, (measure, unit) in MAPS.items():
        for control in ("", SHUFFLED_KEYS):
            values = rows[f"{name}|{control}" if control else name]
            values = values.mean(2) if values.ndim == 3 else values
            frames.append(by_head(rows, values, unit, measure=measure, control=control))
    for at, name in enumerate(("rank", "effective rank")):
        even = np.array([even_ranks(int(n))[at] for n in rows["tokens"]])
        values = np.repeat(even[:, None], rows["rank"].shape[1], 1)
        frames.append(by_head(rows, values, MAPS[name][1], measure=MAPS[name][0], control=UNIFORM))
    return joined(frames)


def _law(rows: Rows, how: How) -> pd.DataFrame | None:
    """Of ln A within rows, by head: variance, skewness and excess kurtosis (both 0 of a normal law)."""
    if "skewness" not in rows.values:
        return None
    frames = []
    for name in LAW:
        measure = "excess kurtosis" if name == "kurtosis" else name
        unit = "nats²" if name == "variance" else "0 of a normal law"
        frames.append(by_head(rows, rows[name], unit, measure=measure))
    return joined(frames)


TABLES = {
    "indicators": (_indicators, ("measure",)),
    "layers": (_layers, ("measure",)),
    "lengths": (_lengths, ("keys", "measure")),
    "overload": (_overload, ("part", "yardstick")),
    "maps": (_maps, ("measure",)),
    "law": (_law, ("measure",)),
    "tested": (tested, ("claim", "than", "untestable")),
}
