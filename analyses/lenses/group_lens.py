"""Vocabulary-group lens: how probable the words of a language, or the colours, are in every state

Tables: groups (summed probability of a group's tokens by state, beside as many random tokens), kl (to the output).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.word_groups import token_groups
from ...probes.model.head import in_rows, vocabulary
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common.controls import DRAWS, NEAR, random_words
from ..common.frames import summarise
from ._group_findings import findings

__all__ = ["findings"]

VERSION = 2
QUESTION = "In which state do the words of a language, or of another group, become probable?"
PAPER = "latent language, arXiv 2408.10811 (-style)"


@dataclass(frozen=True)
class Options:
    """groups: "languages", "colours", "shapes", "digits", or one's own: "pets=cat,dog". subset: the meta column that a
    task's examples are split by.
    """

    groups: tuple[str, ...] = ("languages",)
    subset: str = "relation"


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "At the last real position, every state of the residual goes through the model's final norm and unembedding; "
        "the probabilities of a group's tokens are summed. Words that are not one token of this tokenizer are left "
        f"out, and so are those that two groups share. Control: as many random tokens that are words too, each within "
        f"{NEAR} ids of one of the group (ids go roughly by frequency), the median of {DRAWS} draws: one odd token can "
        "hold most of a middle state's probability. KL: of the model's output to the state's distribution."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """The states at the last real position, [b, d] each."""
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    kept = {"resid": layer.resid_pre[rows, last]}
    return kept | ({"final": layer.resid_post[rows, last]} if layer.index == layer.subject.n_layers - 1 else {})


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "<group>" and "<group>|random" [b, states], "kl" [b, states]; one state's logits are alive at a time,
    of a few examples.
    """
    groups = token_groups(batch.tokenizer, how.options.groups)
    taken = frozenset(i for ids in groups.values() for i in ids)
    size = vocabulary(subject.model)
    drawn = {g: random_words(batch.tokenizer, tuple(ids), taken, size) for g, ids in groups.items()}
    states = torch.cat([kept["resid"], kept["final"]], 1).to(subject.device)
    return in_rows(partial(_readings, subject, groups, drawn), subject.model, states)


def _readings(subject: Any, groups: Mapping[str, Any], drawn: Mapping[str, Any], states: Tensor) -> dict[str, Tensor]:
    final = metrics.logit_lens(states[:, -1], subject.norm, subject.unembed)
    read: dict[str, list[Tensor]] = {}
    for state in states.unbind(1):
        logits = metrics.logit_lens(state, subject.norm, subject.unembed)
        p = logits.float().softmax(-1)
        read.setdefault("kl", []).append(metrics.kl_divergence(final, logits))
        for group, ids in groups.items():
            read.setdefault(group, []).append(p[:, ids].sum(-1))
            read.setdefault(f"{group}|random", []).append(p[:, drawn[group]].sum(-1).median(-1).values)
    return {name: torch.stack(values, 1) for name, values in read.items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return (subject.n_layers + 1) * (1 + 8 * len(options.groups))


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one state's logits with what is read of them."""
    return costs.logits(subject, batch, 8)


def _groups(rows: Rows, how: How) -> pd.DataFrame:
    """Summed probability of every group's tokens by state, beside that of as many random tokens."""
    names = [name for name in rows.values if name != "kl" and not name.endswith("|random")]
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


TABLES = {"groups": (_groups, ("group", "subset")), "kl": (_kl, ("subset",)), "latent": (_latent, ("group",))}
