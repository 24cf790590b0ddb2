"""The bank of contextual words: states of words in sentences and in running text, collected once per model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example, Segment, is_single_token
from ...data.scene_sentences import sentences
from ...data.tasks import open_task
from ...data.tokens import ids_in_text
from ...probes import VERSION as PROBES
from ...probes.observe.capture import capture
from ...probes.prompts.batch import Batch
from ...probes.runs import lens_store, store
from .. import metrics

LEARNING = 1  # raised when the same options give another bank
WHAT = "word bank"
SKIPPED = 2  # positions at the beginning of a text, whose states are of their place; the official code's
AT_ONCE = 16  # texts of a forward


class Bank(NamedTuple):
    """states, centred [layers, occurrences, d], float32; word: which of `words` each occurrence is. ids: a token of
    each word. embeddings [words, d]: what enters the first layer there. layers: the states collected.
    """

    states: Float[Tensor, "l w d"]
    centred: Float[Tensor, "l w d"]
    word: Int[Tensor, " w"]
    embeddings: Float[Tensor, "words d"]
    ids: Int[Tensor, " words"]
    words: tuple[str, ...]
    layers: tuple[int, ...]


class Occurrence(NamedTuple):
    """A word where it stands."""

    word: str
    position: int
    prefix: tuple[int, ...]
    token: int


def grid(n_layers: int) -> tuple[int, ...]:
    """The states that are collected: 1, 2, 4, 8, 16, 24 and the inputs of the last two layers (the official code's)."""
    some = {state for state in (1, 2, 4, 8, 16, 24) if state < n_layers}
    return tuple(sorted(some | {state for state in (n_layers - 2, n_layers - 1) if state > 0}))


def learn(subject: Any, options: Any) -> str:
    """The name of this subject's bank, collected first where it is not there yet. UserError: no word in the texts."""
    asked = {name: getattr(options, name) for name in ("corpus", "texts", "occurrences", "each")}
    facts = {"subject": lens_store.identity(subject), "dtype": str(subject.dtype), "asked": asked}
    key = store.key_of(facts | {"what": WHAT, "learning": LEARNING, "probes": PROBES})
    directory = lens_store.home() / f"{store.safe_name(subject.name, 60)}.words.{key[:8]}"
    if not lens_store.is_saved(directory):
        with store.locked(directory):
            weights, words = _collect(subject, options)
            record = facts | {"what": WHAT, "words": words, "layers": list(grid(subject.n_layers))}
            lens_store.save(directory, weights, record | {"key": key, "name": directory.name})
    return directory.name


def _collect(subject: Any, options: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Occurrences in their order until there are enough; of one word no more than `each`, of one prefix one."""
    kept: list[tuple[Occurrence, Tensor]] = []
    seen: set[tuple[int, ...]] = set()
    counts: Counter[str] = Counter()
    for batch in _texts(subject, options):
        states = _states(subject, batch)
        for row in range(len(batch.examples)):
            for one in _words_in(batch, row):
                if counts[one.word] < options.each and one.prefix not in seen and len(kept) < options.occurrences:
                    seen.add(one.prefix)
                    counts[one.word] += 1
                    kept.append((one, states[:, row, one.position]))
        if len(kept) >= options.occurrences:
            break
    if not kept:
        raise UserError(f"latent_lens: no whole word is a token in {options.corpus}: another --latent_lens.corpus")
    return _together(kept, batch.tokenizer)


def _together(kept: Sequence[tuple[Occurrence, Tensor]], tokenizer: Any) -> tuple[dict[str, Tensor], list[str]]:
    words = [*dict.fromkeys(one.word for one, _ in kept)]
    first = [next(i for i, (one, _) in enumerate(kept) if one.word == word) for word in words]
    states = torch.nn.functional.normalize(torch.stack([state[1:].float() for _, state in kept], 1), dim=-1)
    weights = {
        "states": states.half(),  # of length 1: what half precision cannot hold is told by no direction
        "word": torch.tensor([words.index(one.word) for one, _ in kept]),
        "embeddings": torch.stack([kept[i][1][0].float() for i in first]),
        "ids": torch.tensor([_token(tokenizer, kept[i][0]) for i in first]),
    }
    return weights, words


def _texts(subject: Any, options: Any) -> Iterator[Batch]:
    """Sentences about coloured shapes first, then the corpus."""
    told = [Example(f"sentence-{i}", f"sentence-{i}", (Segment("text", s),)) for i, s in enumerate(sentences())]
    running = open_task(options.corpus).examples(subject.tokenizer, options.texts, 0)
    bos = True if subject.tokenizer.bos_token_id is not None else None
    for some in (told, running):
        for start in range(0, len(some), AT_ONCE):
            yield subject.batch(some[start : start + AT_ONCE], bos=bos)


@torch.no_grad()
def _states(subject: Any, batch: Batch) -> Float[Tensor, "l b p d"]:
    """What enters the first layer, then the states of the grid."""
    sites = [f"blocks.{state}.hook_resid_pre" for state in (0, *grid(subject.n_layers))]
    kept = capture(subject, batch, sites)
    return torch.stack([kept[site].cpu() for site in sites])


def _words_in(batch: Batch, row: int) -> Iterator[Occurrence]:
    """The tokens of a text that are whole words."""
    text, ids = batch.texts[row], batch.inputs["input_ids"][row].tolist()
    offsets = batch.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    first, last = int(batch.start[row]), int(batch.last[row])
    whole = {match.span() for match in re.finditer(r"\w+", text)}
    special = set(batch.tokenizer.all_special_ids)
    for i, (start, end) in enumerate(offsets):
        position, piece = last + 1 - len(offsets) + i, text[start:end]
        span = start + len(piece) - len(piece.lstrip()), end
        if span in whole and position - first >= SKIPPED and ids[position] not in special:
            yield Occurrence(piece.strip().lower(), position, tuple(ids[first : position + 1]), ids[position])


def _token(tokenizer: Any, seen: Occurrence) -> int:
    """The word with a space in front where that is one token, else the token that was seen."""
    spaced = f" {seen.word}"
    return ids_in_text(tokenizer, spaced)[0] if is_single_token(tokenizer, spaced) else seen.token


@lru_cache(maxsize=1)  # every batch asks for the same
def open_bank(name: str, subject: Any) -> Bank:
    """UserError as `lens_store.read`."""
    found, record = lens_store.read(name, subject, what=WHAT)
    found = {part: tensor.to(subject.device) for part, tensor in found.items()}
    states = found["states"].float()
    told = found["word"], found["embeddings"].float(), found["ids"]
    return Bank(states, metrics.centred_directions(states), *told, tuple(record["words"]), tuple(record["layers"]))
