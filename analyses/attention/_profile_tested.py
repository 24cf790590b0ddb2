"""The numbers of attention_profile's claims, each with its margin over a control where there is one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import SHUFFLED_KEYS, SHUFFLED_PROMPT
from ..common.frames import mean_of_present, of_heads
from ..common.tested import nothing, number

OBSERVED, CEILING = "the largest head's entropy", "uniform attention's entropy"
SHORT = 4  # the bin of 16 to 31 keys
NO_MAPS = "maps were not looked at (--attention_profile.maps)"


def overload(rows: Rows, yardstick: str) -> tuple[np.ndarray, np.ndarray]:
    """[n]: share of a prompt's heads above ¾ of the largest entropy, and between ¼ and ¾."""
    heads = of_heads(rows["entropy"])
    heads = torch.from_numpy(np.ascontiguousarray(heads.reshape(len(heads), -1)))
    even = np.nanmax(rows["even|entropy"], 1)
    above, between = np.full(len(heads), np.nan), np.full(len(heads), np.nan)
    for i, own in enumerate(heads):
        largest = torch.tensor(even[i]).to(own) if yardstick == CEILING else None
        above[i] = metrics.overloaded_heads(own, largest).double().mean()
        between[i] = metrics.middle_heads(own, largest).double().mean()
    return above, between


def tested(rows: Rows, how: How) -> pd.DataFrame:
    groups = rows.examples["group"]
    trivial = of_heads(rows["trivial"]) - rows["even|trivial"][:, _attending(rows)][..., None]
    before = of_heads(rows["before, twin"]) - rows["even|before, twin"][:, _attending(rows)][..., None]
    parts = [
        number("heads in the middle", overload(rows, OBSERVED)[1], groups, "share of heads"),
        number("attention is local", np.nanmean(before, (1, 2)), groups, "share of attention over uniform"),
        number("trivial patterns", np.nanmean(trivial, (1, 2)), groups, "R² over uniform"),
        *_wider(rows),
    ]
    return pd.concat([*parts, *_of_maps(rows)], ignore_index=True)


def _attending(rows: Rows) -> np.ndarray:
    return np.asarray(~np.isnan(rows["entropy"]).all((0, 2)))


def _wider(rows: Rows) -> list[pd.DataFrame]:
    """From rows of 16 to 31 keys to the longest bin that all prompts have."""
    claim, groups = "wider in long contexts", rows.examples["group"]
    own = mean_of_present(rows["by length, twin"], 1)
    whole = np.flatnonzero(~np.isnan(own).any(0))
    longest = int(whole.max()) if len(whole) else 0
    if longest <= SHORT:
        return [nothing(claim, "no prompt has rows of 16 and of 32 keys")]
    if (key := f"by length, twin|{SHUFFLED_PROMPT}") not in rows.values:
        return [nothing(claim, "prompts hold images, which have no other order: there is no control")]
    fall, other = own[:, longest] - own[:, SHORT], mean_of_present(rows[key], 1)
    than = fall - (other[:, longest] - other[:, SHORT])
    unit = "share of uniform"
    return [number(claim, fall, groups, unit), number(claim, than, groups, unit, than=SHUFFLED_PROMPT)]


def _of_maps(rows: Rows) -> list[pd.DataFrame]:
    claims = ("layers by rank", "heads are apart", "about log-normal")
    if "rank" not in rows.values:
        return [nothing(claim, NO_MAPS) for claim in claims]
    groups, beside = rows.examples["group"], {"than": SHUFFLED_KEYS}
    varies, shuffled = (np.nanstd(rows[name].mean(2), 1) for name in ("rank", f"rank|{SHUFFLED_KEYS}"))
    skew = np.nanmean(np.abs(rows["skewness"]), (1, 2))
    return [
        number("layers by rank", varies, groups, "share of the largest rank"),
        number("layers by rank", varies - shuffled, groups, "share of the largest rank", **beside),
        number("about log-normal", skew, groups, "skewness"),
        *_apart(rows),
    ]


def _apart(rows: Rows) -> list[pd.DataFrame]:
    claim, groups = "heads are apart", rows.examples["group"]
    own, chance = (np.nanmean(rows[name], 1) for name in ("apart, twin", f"apart, twin|{SHUFFLED_KEYS}"))
    if np.isnan(own).all():
        return [nothing(claim, "one head")]
    return [number(claim, own, groups, "nats"), number(claim, own - chance, groups, "nats", than=SHUFFLED_KEYS)]
