"""Tables of `group_lens`: probabilities and shares of word groups, the answer's concept in two languages, claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common import stats
from ..common.frames import joined, middle, summarise
from ..common.tested import nothing, number
from ._group_concepts import OTHERS, SPOKEN

TWINS, RANDOM, CONCEPTS = "random words near in id", "random words of the vocabulary", "words of other concepts"
LIKELY, THOUGHT = "English among likely words", "the concept in English"


def group_names(rows: Rows) -> list[str]:
    """The groups of words."""
    return [name.removeprefix("size|") for name in rows.values if name.startswith("size|")]


def _groups(rows: Rows, how: How) -> pd.DataFrame:
    """Summed probability of every group's tokens by state, beside that of as many random tokens."""
    names = group_names(rows)
    frames = []
    for subset, part in rows.subsets(how.options.subset):
        states = {"state": np.arange(part["kl"].shape[1])}
        for name in names:
            for control, source in (("", name), ("random tokens", f"{name}|random")):
                frame = summarise(part[source], part.examples["group"], states, "probability")
                frames.append(frame.assign(group=name, control=control, subset=subset))
    return pd.concat(frames, ignore_index=True)


def _kl(rows: Rows, how: How) -> pd.DataFrame:
    """KL of the model's output to each state's distribution."""
    states = {"state": np.arange(rows["kl"].shape[1])}
    frames = [
        summarise(part["kl"], part.examples["group"], states, "nats").assign(control="", subset=subset)
        for subset, part in rows.subsets(how.options.subset)
    ]
    return pd.concat(frames, ignore_index=True)


def _latent(rows: Rows, how: How) -> pd.DataFrame | None:
    """Where examples name a target language: how far English and the target are above their random tokens."""
    if "target" not in rows.examples or "English" not in rows.values:
        return None
    targets, frames = rows.examples["target"].to_numpy(), []
    for name in ("English", "target"):
        group = targets if name == "target" else np.full(len(targets), "English")
        excess = np.stack([rows[g][i] - rows[f"{g}|random"][i] for i, g in enumerate(group)])
        frame = summarise(excess, rows.examples["group"], {"state": np.arange(excess.shape[1])}, "probability")
        frames.append(frame.assign(group=name, control=""))
    return pd.concat(frames, ignore_index=True)


def _shares(rows: Rows, how: How) -> pd.DataFrame | None:
    """Of the likeliest words that belong to some group, the share of each group: counts pooled, divided last.

    Of words drawn from the whole vocabulary each group gets its share of all listed words, as far as these are tokens.
    """
    names = group_names(rows)
    if len(names) < 2:
        return None
    return joined(
        _share(rows, name, names, control).assign(group=name) for name in names for control in ("", TWINS, RANDOM)
    )


def _share(rows: Rows, name: str, names: list[str], control: str) -> pd.DataFrame:
    """Σ counts of one group / Σ counts of all, by state."""
    of = {one: _counts(rows, one, control) for one in names}
    axes = {"state": np.arange(of[name].shape[1])}
    frame = summarise(of[name], rows.examples["group"], axes, "share", denominators=sum(of.values()))
    return frame.assign(control=control)


def _counts(rows: Rows, name: str, control: str) -> np.ndarray:
    if control == RANDOM:
        return np.broadcast_to(rows[f"size|{name}"][:, None], rows[f"top|{name}"].shape)
    return rows[f"top|{name}|random" if control == TWINS else f"top|{name}"]


def _concepts(rows: Rows, how: How) -> pd.DataFrame | None:
    """The probability of the concept's word in English and in the answer's language, beside other concepts' words."""
    if not _translates(rows):
        return None
    return joined(
        summarise(rows[name], rows.examples["group"], {"state": np.arange(rows[name].shape[1])}, "probability").assign(
            word=word, control=control
        )
        for word in SPOKEN
        for name, control in ((f"concept|{word}", ""), (f"concept|{word}|{OTHERS}", CONCEPTS))
    )


def _translates(rows: Rows) -> bool:
    """Whether some example has a concept whose words are told apart."""
    return "target" in rows.examples and bool(np.isfinite(rows[f"concept|{SPOKEN[0]}"]).any())


def _tested(rows: Rows, how: How) -> pd.DataFrame | None:
    if not _translates(rows) or "English" not in group_names(rows) or len(group_names(rows)) < 2:
        return None
    parts = [*_likely(rows), *_thought(rows)]
    return pd.concat([part if "best" in part else part.assign(best=np.nan) for part in parts], ignore_index=True)


def _likely(rows: Rows) -> Iterator[pd.DataFrame]:
    """English among the counted words of the middle half of the states, of examples that neither ask nor say it."""
    kept = rows.where(_foreign(rows))
    names, groups = group_names(rows), kept.examples["group"]
    if not len(kept.examples):
        yield nothing(LIKELY, "prompt or answer is English in every example")
        return
    states = middle(kept["kl"].shape[1])
    pairs = []
    for control in ("", TWINS):
        of = {name: _counts(kept, name, control)[:, states].sum(1) for name in names}
        pairs.append((of["English"], np.sum([*of.values()], 0)))
    own, twins = pairs
    yield number(LIKELY, own[0], groups, "share", denominators=own[1])
    gap = stats.ratio_difference(own, twins, groups)
    told = {"value": float(gap.value), "lower": float(gap.lower), "upper": float(gap.upper)}
    yield number(LIKELY, own[0], groups, "share", than=TWINS).assign(**told)


def _foreign(rows: Rows) -> np.ndarray:
    relation = rows.examples["relation"] if "relation" in rows.examples else rows.examples["target"]
    return ~(relation.astype(str).str.contains("English") | (rows.examples["target"] == "English")).to_numpy()


def _thought(rows: Rows) -> Iterator[pd.DataFrame]:
    """English minus other concepts' English, at the inner state that half of the groups chose; minus the same of the
    answer's own word.
    """
    english, target = (rows[f"concept|{word}"] - rows[f"concept|{word}|{OTHERS}"] for word in SPOKEN)
    there = np.isfinite(english[:, 0]) & _foreign(rows)
    groups = rows.examples["group"].to_numpy()[there]
    english, target = english[there], target[there]
    said = number("", target[:, -1], groups, "probability").iloc[0] if len(groups) else None
    if len({*groups}) < 2 * stats.MIN_GROUPS:
        yield nothing(THOUGHT, f"fewer than {2 * stats.MIN_GROUPS} concepts have words that are told apart")
    elif said is not None and not said["lower"] > 0:
        yield nothing(THOUGHT, "the model does not say the answer's word more than other concepts' words")
    else:
        yield from _chosen(english, target, groups)


def _chosen(english: np.ndarray, target: np.ndarray, groups: np.ndarray) -> Iterator[pd.DataFrame]:
    first, last = english.shape[1] // 2, english.shape[1] - 1
    state, other = stats.chosen_on(english, groups, lambda half: first + half[:, first:last].mean(0).argmax())
    own, said = english[other, int(state)], target[other, int(state)]
    of: dict[str, Any] = {"groups": groups[other], "unit": "probability"}
    yield number(THOUGHT, own, **of).assign(best=float(state))
    yield number(THOUGHT, own - said, **of, than="the answer's word in its language").assign(best=float(state))


TABLES = {
    "groups": (_groups, ("group", "subset")),
    "shares": (_shares, ("group",)),
    "concepts": (_concepts, ("word",)),
    "kl": (_kl, ("subset",)),
    "latent": (_latent, ("group",)),
    "tested": (_tested, ("claim", "than", "untestable", "best")),
}
