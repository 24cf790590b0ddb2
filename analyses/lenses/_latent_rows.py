"""Rows of `latent_lens`: what each lens says of every image token, and how often it is what the picture shows there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.model.head import in_rows
from .. import metrics
from ._latent_truths import Truth
from ._word_bank import Bank

LATENT, CENTRED, EMBEDDING = "contextual words", "contextual words, centred", "input embeddings"
VOCABULARY, SAME_WORDS = "vocabulary lens", "vocabulary lens, same words"
LENSES = (LATENT, CENTRED, EMBEDDING, VOCABULARY, SAME_WORDS)
# Where a thing's words are looked for: its own tokens, those of other things, those of none, all tokens alike; other
# words at its own tokens; and what random vectors in the place of the states are nearest to.
OWN, OTHER, BACKGROUND, SHUFFLED, IMAGE, RANDOM = "own", "other", "background", "shuffled", "image", "random"
PLACES = (OWN, OTHER, BACKGROUND, SHUFFLED, IMAGE)
Said = Int[Tensor, " tokens"]


def read_state(
    subject: Any, bank: Bank, count: int, key: str, states: Float[Tensor, "tokens d"]
) -> tuple[dict[str, Said], dict[str, Tensor]]:
    """What every lens says of the image tokens of one example at one state, as places in `bank.words` (−1: none of
    them), RANDOM among them; and what is kept of the contextual words: ids, values [tokens, count], layer, random
    layer, vocabulary [tokens], margin, cosine [].
    """
    similar, layer = metrics.word_similarity(states, bank.states, bank.word)
    top = similar.topk(count, -1)
    random, random_layer = metrics.word_similarity(_random(states, key), bank.states, bank.word)
    centred, _ = metrics.word_similarity(metrics.centred_directions(states), bank.centred, bank.word)
    alone = torch.arange(len(bank.words), device=states.device)
    embedded, _ = metrics.word_similarity(states, bank.embeddings[None], alone)
    spoken = in_rows(partial(_spoken, subject, bank.ids), subject.model, states)
    said = {LATENT: top.indices[:, 0], CENTRED: centred.argmax(-1), EMBEDDING: embedded.argmax(-1)}
    said |= {SAME_WORDS: spoken["among"], RANDOM: random.argmax(-1)}
    kept = {"ids": bank.ids[top.indices], "values": top.values, "vocabulary": spoken["first"]}
    two = similar.topk(2, -1).values
    kept |= {"cosine": two[:, 0].mean(), "margin": (two[:, 0] - two[:, 1]).mean()}
    for name, layers, words in (("layer", layer, said[LATENT]), ("random layer", random_layer, said[RANDOM])):
        kept[name] = layers.gather(1, words[:, None])[:, 0]
    return {name: ids.cpu() for name, ids in said.items()}, {name: value.cpu() for name, value in kept.items()}


def _spoken(subject: Any, ids: Int[Tensor, " words"], states: Float[Tensor, "n d"]) -> dict[str, Tensor]:
    logits = metrics.logit_lens(states, subject.norm, subject.unembed)
    return {"first": logits.argmax(-1), "among": logits[:, ids].argmax(-1)}


def _random(states: Float[Tensor, "tokens d"], key: str) -> Float[Tensor, "tokens d"]:
    """Vectors with the mean and the covariance of the picture's own states, drawn by the example and the state."""
    drawn = torch.randn(len(states), len(states), generator=torch.Generator().manual_seed(crc32(key.encode())))
    return metrics.like_states(states, drawn.to(states.device))


def places_in_bank(bank: Bank, tokenizer: Any, ids: Int[Tensor, " tokens"]) -> Said:
    """Token ids as places in the bank's words, by their letters alone; −1 for a word that is not there."""
    place = {word: i for i, word in enumerate(bank.words)}
    unique, back = ids.unique(return_inverse=True)
    told = [place.get(tokenizer.decode([i]).strip().lower(), -1) for i in unique.tolist()]
    return torch.tensor(told)[back]


def named(said: Mapping[str, Said], things: Sequence[Truth], words: Sequence[str]) -> dict[str, Tensor]:
    """ "named|<lens>|<place>" []: the share of tokens whose word names the thing, over the tokens of all things; NaN
    where there is no such token.
    """
    place = {word: i for i, word in enumerate(words)}
    own, others = (
        [torch.tensor([place[word] for word in sorted(told)], dtype=torch.long) for told in each]
        for each in ([thing.words for thing in things], [thing.others for thing in things])
    )
    found = {}
    for lens, ids in said.items():
        shares = dict.fromkeys(PLACES, torch.tensor(torch.nan))
        if things:
            hits, misled = (torch.stack([torch.isin(ids, told) for told in each]).float() for each in (own, others))
            shares = _at(hits, misled, torch.stack([thing.where for thing in things]).float(), others)
        found |= {f"named|{lens}|{name}": share for name, share in shares.items()}
    random = found[f"named|{RANDOM}|{OWN}"]
    return {n: v for n, v in found.items() if f"|{RANDOM}|" not in n} | {f"named|{LATENT}|{RANDOM}": random}


def _at(
    hits: Float[Tensor, "things tokens"],
    misled: Float[Tensor, "things tokens"],
    where: Float[Tensor, "things tokens"],
    others: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Shares at each of PLACES."""
    any_thing, sizes = where.amax(0), where.sum(1, keepdim=True)
    even = sizes.expand_as(where)  # every token alike is what shuffled tokens give on average
    weights = {OWN: where, OTHER: any_thing - where, BACKGROUND: (1 - any_thing).expand_as(where), SHUFFLED: even}
    found = {name: (hits * weight).sum() / weight.sum() for name, weight in weights.items()}
    told = where * torch.tensor([[float(len(one) > 0)] for one in others])
    return found | {IMAGE: (misled * told).sum() / told.sum()}
