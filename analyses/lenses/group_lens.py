"""Vocabulary-group lens: how probable the words of a language, or the colours, are in every state

Tables: groups (summed probability of a group's tokens by state, beside as many random tokens), shares (of the groups
among the likeliest words), concepts (the answer's own word in English and in its language), kl (to the output), tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...data.word_groups import token_groups
from ...probes.model.head import in_rows, vocabulary
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from .. import metrics
from ..common.claims import Claim, Statement
from ..common.controls import DRAWS, NEAR, random_words
from ..common.tested import judged
from ._group_concepts import concept_ids, concept_rows
from ._group_findings import findings
from ._group_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 3
QUESTION = "In which state do the words of a language, or of another group, become probable?"
PAPER = "latent language, arXiv 2408.10811 (-style); shares of languages, arXiv 2402.18815"
CLAIMS = (
    Statement(
        "English among likely words",
        "Likely words between prompt and answer are English: in the middle half of the states more than half of the "
        "likeliest words that belong to a language are English, though prompt and answer are not, and more than of "
        "random words near the lists' words in id.",
        "arXiv 2402.18815 (PLND); word lists in place of a language detector, and the bar, are this project's",
        0.5,
    ),
    Statement(
        "the concept in English",
        "The answer is thought in English before it is said: at the inner state of the second half that one half of "
        "the concepts chooses, the English word of the answer's concept is more probable than the English words of "
        "other concepts (difference above 0), by more than the answer's own word is in its language.",
        "arXiv 2408.10811, style (abstract); concepts of other examples as the control and the halves are this "
        "project's",
    ),
)


@dataclass(frozen=True)
class Options:
    """groups: "languages", "colours", "shapes", "digits", or one's own: "pets=cat,dog". subset: the meta column that a
    task's examples are split by. top: the likeliest words of a state, of which those of each group are counted.
    """

    groups: tuple[str, ...] = ("languages",)
    subset: str = "relation"
    top: int = 10


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "At the last real position, every state of the residual goes through the model's final norm and unembedding; "
        "the probabilities of a group's tokens are summed. Words that are not one token of this tokenizer are left "
        f"out, and so are those that two groups share. Control: as many random tokens that are words too, each within "
        f"{NEAR} ids of one of the group (ids go roughly by frequency), the median of {DRAWS} draws: one odd token can "
        "hold most of a middle state's probability. Shares: of the "
        f"{options.top} likeliest words of each state those that are of some group are counted over all prompts, and "
        "divided last. Concepts, where a task translates words: the probability of the answer's word in its language "
        "and in English, by its first token, beside the mean of the other concepts' words in the same language; words "
        "that stand in the prompt, and first tokens that both languages share or that are one letter, are left out. "
        "KL: of the model's output to the state's distribution."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """The states at the last real position, [b, d] each."""
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    kept = {"resid": layer.resid_pre[rows, last]}
    return kept | ({"final": layer.resid_post[rows, last]} if layer.index == layer.subject.n_layers - 1 else {})


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows [b, states]: "<group>" and "<group>|random", "top|<group>" and "top|<group>|random" (how many of the
    likeliest words are the group's), "kl", those of `concept_rows`; and "size|<group>" [b], its number of tokens. One
    state's logits are alive at a time, of a few examples.
    """
    if how.options.top < 1:
        raise UserError(f"--group_lens.top {how.options.top}: at least 1 is needed")
    groups = token_groups(batch.tokenizer, how.options.groups)
    taken = frozenset(i for ids in groups.values() for i in ids)
    size = vocabulary(subject.model)
    drawn = {g: random_words(batch.tokenizer, tuple(ids), taken, size) for g, ids in groups.items()}
    states = torch.cat([kept["resid"], kept["final"]], 1).to(subject.device)
    own, others = (ids.to(subject.device) for ids in concept_ids(batch))
    read = partial(_readings, subject, groups, drawn, how.options.top)
    rows = in_rows(read, subject.model, states, own, others)
    sizes = {f"size|{g}": torch.full((len(states),), float(len(ids))) for g, ids in groups.items()}
    return rows | sizes


def _readings(
    subject: Any,
    groups: Mapping[str, Any],
    drawn: Mapping[str, Any],
    top: int,
    states: Tensor,
    own: Tensor,
    others: Tensor,
) -> dict[str, Tensor]:
    final = metrics.logit_lens(states[:, -1], subject.norm, subject.unembed)
    read: dict[str, list[Tensor]] = {}
    for state in states.unbind(1):
        logits = metrics.logit_lens(state, subject.norm, subject.unembed)
        p = logits.float().softmax(-1)
        likeliest = p.topk(min(top, p.shape[-1])).indices
        found = {"kl": metrics.kl_divergence(final, logits), **concept_rows(p, own, others)}
        for group, ids in groups.items():
            found[group] = p[:, ids].sum(-1)
            found[f"{group}|random"] = p[:, drawn[group]].sum(-1).median(-1).values
            found[f"top|{group}"] = _among(likeliest, ids)
            found[f"top|{group}|random"] = _among(likeliest, [i for few in drawn[group] for i in few]) / DRAWS
        for name, values in found.items():
            read.setdefault(name, []).append(values)
    return {name: torch.stack(values, 1) for name, values in read.items()}


def _among(likeliest: Int[Tensor, "n top"], ids: Sequence[int]) -> Float[Tensor, " n"]:
    """How many of the likeliest words are among the ids; an id that is there twice counts twice."""
    listed = torch.tensor(ids, device=likeliest.device)
    return (likeliest[..., None] == listed).sum((1, 2)).float()


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return (subject.n_layers + 1) * (5 + 16 * len(options.groups))


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one state's logits with what is read of them."""
    return costs.logits(subject, batch, 8)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say of translation, judged by the table tested; nothing of other tasks."""
    tested = tables.get("tested")
    return [] if tested is None else judged(tested, CLAIMS)
