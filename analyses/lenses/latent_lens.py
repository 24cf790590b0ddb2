"""Contextual words: which words, as this model holds them inside a sentence, the image tokens lie nearest to

A bank of states of words in sentences and in running text is collected once per model; every image token is told by
its nearest one, beside the vocabulary lens of the same state. Tables: named, tested, layers, hubs, nearness; words and
pictures of the first examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.activations import take
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.ragged import stacked
from ..common.tested import judged
from ..common.thumbnails import SIDE, picture_rows
from ._latent_findings import findings
from ._latent_rows import LENSES, PLACES, VOCABULARY, named, places_in_bank, read_state
from ._latent_tables import RUN_TABLES, TABLES
from ._latent_truths import truths
from ._word_bank import grid, learn, open_bank

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 2
QUESTION = "Which words in context do image tokens lie nearest to, and are they what the picture shows there?"
PAPER = "LatentLens, arXiv 2602.00462 (-style)"
FIT_EXAMPLES = 0  # it learns from texts of its own
CLAIMS = (
    Statement(
        "context names more",
        "Words in context tell what an image token shows where the vocabulary does not: the share of the objects' "
        "tokens whose nearest contextual word is the object's colour or shape is larger than that of the vocabulary "
        "lens's first word (difference above 0, mean over the states read without state 0), and by more than where the "
        "vocabulary lens chooses among the same words, and than at shuffled image tokens.",
        "arXiv 2602.00462 (LatentLens), style: 72 % of tokens interpretable against 23 %, a language model judging; "
        "known objects in its place, bar and controls are this project's",
    ),
    Statement(
        "most tokens named",
        "Most of the objects' tokens are told by words in context, on average over the states read (without state 0, "
        "which no layer has changed): more than half have the object's colour or shape as their nearest contextual "
        "word, and more than of shuffled tokens, of words for another picture, and of random vectors like the states.",
        "arXiv 2602.00462 (LatentLens), style: the majority of tokens in all layers; known objects and the controls "
        "are this project's",
        0.5,
    ),
    Statement(
        "inputs at middle layers",
        "What the projector puts in lies nearest to words of middle layers: at state 0 more than half of the image "
        "tokens have their nearest contextual word in the middle half of the layers, and more than of random vectors "
        "like them.",
        "arXiv 2602.00462 (LatentLens), style: its mid-layer leap; bar and control are this project's",
        0.5,
    ),
)


@dataclass(frozen=True)
class Options:
    """corpus: a task of text, as on the command line, behind sentences about coloured shapes; texts: how many of it.
    occurrences: words in context that are kept at most; each: of one word at most. words: shown for every image token;
    shown: examples whose words are kept. asked: the mark over what the answer names, where things are not known.
    """

    corpus: str = "passages:split=train"
    texts: int = 24
    occurrences: int = 2000
    each: int = 20
    words: int = 3
    shown: int = 4
    asked: str = "asked_object"


class Learned(NamedTuple):
    """bank: its name in the cache. occurrences of so many words, in so many states each. layers: those states."""

    bank: str = ""
    occurrences: int = 0
    words: int = 0
    layers: tuple[int, ...] = ()


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Collect the bank, or find it. UserError: an option below 1, a model without pictures, a corpus without words, or
    with fewer than are shown.
    """
    if not subject.tower_fault and subject.vision is None:
        raise UserError(
            f"{subject.name} has no vision tower: latent_lens needs a vision-language model (--subject scenes)"
        )
    for name in ("texts", "occurrences", "each", "words"):
        if getattr(options, name) < 1:
            raise UserError(f"--latent_lens.{name} {getattr(options, name)}: at least 1 is needed")
    name = learn(subject, options)
    bank = open_bank(name, subject)
    needed = max(options.words, 2)  # the nearest word is read beside the next one
    if len(bank.words) < needed:
        raise UserError(
            f"latent_lens: the bank has {len(bank.words)} words, {needed} are needed: lower --latent_lens.words "
            f"({options.words}), or raise --latent_lens.occurrences ({options.occurrences}) or --latent_lens.texts"
        )
    return Learned(name, len(bank.word), len(bank.words), bank.layers)


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    layers = ", ".join(map(str, learned.layers)) if learned else "some"
    some = f"{learned.occurrences} occurrences of {learned.words} words" if learned else "words"
    return (
        f"Bank: the states {layers} of {some}, each a token of its own, in sentences about coloured shapes and in "
        f"{options.corpus} (at most {options.each} of one word; the first two positions of a text left out). Every "
        "image token's state is compared with all of them by cosine, whatever their layer; its word is the nearest "
        "one. Centred: at length 1, the mean of the picture's tokens, and of each of the bank's states, is taken off "
        "first, since a few large dimensions make all states alike. Input embeddings: the bank's words as they enter "
        "the first layer. Vocabulary lens: final norm, unembedding, the first of all words, or of the bank's words "
        "alone. Named: the word is the colour or the shape of the thing that the token's middle lies on (of tasks "
        "without known things: the answer, at the asked object). Controls: the same words at the tokens of other "
        "things, of no thing, or of any place (shuffled); words for a thing of another picture; random vectors with "
        "the mean and covariance of the picture's tokens. The claims of named tokens are about the mean over states "
        "without state 0, which no layer has changed."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """The states of the image tokens [b, image tokens, d], of the layers that the bank has, the first and the last.
    UserError: an example without an image.
    """
    there = batch.where("image").any(1)
    if not there.all():
        missing = next(e.id for e, has in zip(batch.examples, there, strict=True) if not has)
        raise UserError(f"example {missing} has no image tokens: latent_lens needs a task with pictures")
    is_last = layer.index == layer.subject.n_layers - 1
    kept = {"final": take(layer.resid_post, batch, "patches")} if is_last else {}
    wanted = layer.index in (0, *how.learned.layers)
    return kept | ({"resid": take(layer.resid_pre, batch, "patches")} if wanted else {})


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows [b, states, …]: "named|<lens>|<place>"; "said|<lens>" [tokens], places in the bank's words, −1 for none of
    them; "ids", "values" [tokens, words], "layer", "random layer", "vocabulary" [tokens]; "cosine", "margin"; what maps
    need (`picture_rows`). NaN behind an example's last image token.
    """
    bank = open_bank(how.learned.bank, subject)
    states = torch.cat([kept["resid"], kept["final"]], 1)
    known = truths(batch, bank.words, how.options.asked)
    counts = batch.where("patches").sum(1).tolist()
    found = []
    for row, example in enumerate(batch.examples):
        things = [thing._replace(where=thing.where[: counts[row]]) for thing in known[row]]
        each = []
        for index, state in enumerate(states[row, :, : counts[row]].to(subject.device)):
            said, shown = read_state(subject, bank, how.options.words, f"{example.id} state {index}", state.float())
            said[VOCABULARY] = places_in_bank(bank, batch.tokenizer, shown["vocabulary"])
            told = {f"said|{lens}": ids for lens, ids in said.items()}
            each.append(named(said, things, bank.words) | told | shown)
        found.append({name: torch.stack([one[name] for one in each]).float() for name in each[0]})
    return stacked(found) | picture_rows(batch)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    of_a_token = len(LENSES) + 4 + 2 * options.words
    states = len(grid(subject.n_layers)) + 2
    return states * (len(LENSES) * len(PLACES) + 3 + of_a_token * positions) + SIDE * SIDE


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: the bank twice, one example's cosines to a layer of it, and its logits."""
    bank = 2 * 4 * len(grid(subject.n_layers)) * options.occurrences * subject.d_model
    kept = 4 * batch * (len(grid(subject.n_layers)) + 2) * positions * subject.d_model
    return bank + kept + 6 * 4 * positions * options.occurrences + costs.logits(subject, min(positions, 64), 3)


def disk(subject: Any, options: Options) -> int:
    """Bytes of the bank in the cache, in half precision."""
    return 2 * len(grid(subject.n_layers)) * options.occurrences * subject.d_model


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says of contextual words, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
