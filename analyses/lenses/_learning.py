"""From a corpus to the learned lenses of a model: one forward per passage, then everything from what it kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.tasks import open_task
from ...probes import VERSION as PROBES
from ...probes.model.head import rows_at_once, vocabulary
from ...probes.model.hybrid import named
from ...probes.runs import lens_store, store
from ...probes.runs.activations import Activations, cached_together
from ...probes.runs.activations import Options as Kept
from ...probes.runs.job import PACKAGES
from ..common.descent import Descent, Weights, require_batch
from . import _attention_lens, _tuned_lens
from ._lens_words import choose, fitting

LEARNING = 1  # raised when the same training gives other lenses
SAMPLE = 4096  # positions that the mean output is taken over
COARSE = 511  # the corpus's most frequent tokens, for which marginals are kept one by one


@dataclass(frozen=True)
class Training:
    """corpus: a task, as on the command line; passages: how many of it (0: all).

    layers: which layers get an attention lens: "quarters" (at 1/4, 1/2, 3/4 of those with heads), "all", "none", or
    "5,15,25". positions: where its loss is taken: "all" real ones, "last" (the paper), or so many drawn per passage.
    states: which states get a tuned lens: "all" or "none". tuned_positions: as positions. start: "ridge" or
    "identity". steps 0 leaves the start as it is. batch: positions of a step; rate: Adam's, falling to 0.
    """

    corpus: str = "passages:split=train"
    passages: int = 96
    layers: str = "quarters"
    positions: str = "all"
    steps: int = 60
    batch: int = 512
    rate: float = 3e-3
    states: str = "all"
    tuned_positions: str = "64"
    start: str = "ridge"
    tuned_steps: int = 4
    tuned_batch: int = 128
    tuned_rate: float = 1e-3
    seed: int = 0


def learn(subject: Any, training: Training) -> str:
    """The name of the learned lenses of this subject, learned first where they are not there yet.

    Killed, it goes on where it was: passages by batch, lenses by layer and, inside one, by checkpoint.
    UserError: a corpus smaller than a batch, unknown layers; or as in `run`.
    """
    facts = _facts(subject, training)
    key = store.key_of(facts)
    directory = lens_store.home() / f"{store.safe_name(subject.name, 60)}.{key[:8]}"
    if lens_store.is_saved(directory):
        return directory.name
    with store.locked(directory):
        text, deep = activations(subject, training)
        shared = mean_output(subject, text)
        _attention(subject, training, text, directory, shared["marginal"])
        _tuned(subject, training, deep, directory)
        weights, losses = _together(directory, _planned(subject, training))
        corpus = {"ids": sorted(set(text.examples["id"])), "groups": sorted(set(text.examples["group"]))}
        record = {**facts, **corpus, "key": key, "name": directory.name, "losses": losses}
        lens_store.save(directory, weights | shared, record)
    for part in directory.glob("part-*"):
        part.unlink()
    return directory.name


def _facts(subject: Any, training: Training) -> dict[str, Any]:
    task = open_task(training.corpus)
    words = fitting(subject, layers_of(subject.decoder.attending, training.layers))
    return ({"words": words} if words else {}) | {
        "subject": lens_store.identity(subject),
        "dtype": str(subject.dtype),
        "corpus": {"name": task.name, "version": task.module.VERSION, "options": task.options},
        "training": asdict(training),
        "versions": {**{name: version(name) for name in PACKAGES}, "learning": LEARNING, "probes": PROBES},
    }


def layers_of(attending: Sequence[int], asked: str) -> list[int]:
    """The layers that `Training.layers` names, among those that have heads. UserError: one that has none."""
    n = len(attending)
    if asked in ("all", "none"):
        return list(attending) if asked == "all" else []
    if asked == "quarters":
        return sorted({attending[n // 4], attending[n // 2], attending[n * 3 // 4]})
    words = [word.strip() for word in asked.split(",")]
    wrong = [word for word in words if not (word.isdigit() and int(word) in attending)]
    if wrong:
        known = f"all, none, quarters, or numbers of {named(attending)}"
        raise UserError(f"layers {asked!r}: {wrong[0]!r} is no layer with heads: {known}")
    return sorted({int(word) for word in words})


def final_site(subject: Any) -> str:
    return f"blocks.{subject.n_layers - 1}.hook_resid_post"


def activations(subject: Any, training: Training) -> tuple[Activations, Activations]:
    """What the attention lenses and what the tuned lenses are learned from, kept by one forward per passage."""
    final = final_site(subject)
    layers = layers_of(subject.decoder.attending, training.layers)
    deep = range(subject.n_layers if training.states == "all" else 0)
    wanted = [
        Kept((*(f"blocks.{i}.attn.hook_z" for i in layers), final), training.positions),
        Kept((*(f"blocks.{i}.hook_resid_pre" for i in deep), final), training.tuned_positions),
    ]
    task = open_task(training.corpus)
    text, deep = cached_together(subject, task, wanted, training.passages or None, training.seed)
    return text, deep


def _attention(subject: Any, training: Training, kept: Activations, directory: Path, marginal: Tensor) -> None:
    descent = Descent(training.steps, training.batch, training.rate, training.seed)
    layers = layers_of(subject.decoder.attending, training.layers)
    final = kept.tokens(final_site(subject)) if layers else torch.empty(0)
    if layers:
        require_batch(len(final), descent, "attention lens")
    count = fitting(subject, layers)
    chosen = choose(subject, count, marginal, final) if count else None
    for layer in layers:

        def train(checkpoint: Path, layer: int = layer) -> tuple[Weights, list[float]]:
            z = kept.tokens(f"blocks.{layer}.attn.hook_z")
            return _attention_lens.train(subject, layer, z, final, descent, checkpoint, chosen)

        _once(directory, f"attention.{layer}", train)


def _tuned(subject: Any, training: Training, kept: Activations, directory: Path) -> None:
    if training.states != "all":
        return
    descent = Descent(training.tuned_steps, training.tuned_batch, training.tuned_rate, training.seed)
    final = kept.tokens(final_site(subject))
    require_batch(len(final), descent, "tuned lens")
    for state in range(subject.n_layers):

        def train(checkpoint: Path, state: int = state) -> tuple[Weights, list[float]]:
            states = kept.tokens(f"blocks.{state}.hook_resid_pre")
            return _tuned_lens.train(subject, state, states, final, training.start, descent, checkpoint)

        _once(directory, f"tuned.{state}", train)


def _planned(subject: Any, training: Training) -> list[str]:
    """The names of all lenses of a training."""
    layers = layers_of(subject.decoder.attending, training.layers)
    states = range(subject.n_layers if training.states == "all" else 0)
    return [*(f"attention.{layer}" for layer in layers), *(f"tuned.{state}" for state in states)]


def _once(directory: Path, name: str, train: Any) -> None:
    """A finished lens is not learned again; it waits on disk."""
    path = _part(directory, name)
    if not path.exists():
        weights, losses = train(path.with_suffix(".checkpoint"))
        text = torch.tensor(losses, dtype=torch.float64)
        store.save_rows(path, {**weights, "losses": text}, name, ())


def _together(directory: Path, names: Sequence[str]) -> tuple[Weights, dict[str, list[float]]]:
    """The weights of all finished lenses, "attention.7.weight", and the losses of each."""
    parts = {name: store.read_rows(_part(directory, name), name, ()) for name in names}
    losses = {name: part.pop("losses").tolist() for name, part in parts.items()}
    return {f"{name}.{weight}": tensor for name, part in parts.items() for weight, tensor in part.items()}, losses


def _part(directory: Path, name: str) -> Path:
    return directory / f"part-{name.replace('.', '-')}.safetensors"


@torch.no_grad()
def mean_output(subject: Any, kept: Activations) -> Weights:
    """The model's mean distribution over the corpus (some 4,096 positions of it), and its most frequent tokens."""
    final = kept.tokens(final_site(subject))
    final = final[:: max(1, len(final) // SAMPLE)]
    parts = final.split(min(256, rows_at_once(vocabulary(subject.model))))
    mean = sum(subject.unembed(subject.norm(x)).float().softmax(-1).sum(0) for x in parts) / len(final)
    assert isinstance(mean, Tensor)
    return {"marginal": mean, "frequent": mean.topk(min(COARSE, len(mean))).indices}


PARTS = {"attention": ("weight", "bias"), "tuned": ("A", "b")}
FEW_WORDS = ("words", "map", "shift")  # beside them where not all words have maps


def open_lens(subject: Any, name: str, kind: str, place: int) -> Weights:
    """One lens: kind "attention" of a layer or "tuned" of a state. UserError as `learned.read`."""
    parts = PARTS[kind] if kind == "tuned" or not lens_store.record_of(name).get("words") else PARTS[kind] + FEW_WORDS
    found, _ = lens_store.read(name, subject, [f"{kind}.{place}.{part}" for part in parts])
    return {part: found[f"{kind}.{place}.{part}"] for part in parts}


def lens_names(record: dict[str, Any], kind: str) -> list[int]:
    """The layers or states for which a record tells of a lens ("attention", "tuned")."""
    return sorted(int(name.partition(".")[2]) for name in record["losses"] if name.startswith(f"{kind}."))
