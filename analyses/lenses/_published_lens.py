"""Tuned lenses as AlignmentResearch/tuned-lens publishes them: config.json, and the translators of all states.

Theirs is x + W x + b for the state that enters each layer ("3.weight" [d, d], "3.bias" [d]), ours x + x · A + b: A is
W transposed. Their weights are a pickle, params.pt, which is never read; params.safetensors beside it is:

    safetensors.torch.save_file(torch.load("params.pt", weights_only=True), "params.safetensors")
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...data.errors import UserError
from ...data.tasks import open_task
from ...probes import VERSION as PROBES
from ...probes.model.head import head_parts
from ...probes.runs import lens_store, store
from ..common.descent import Weights
from ._learning import Training, activations, lens_names, mean_output

CONFIG, PARAMS, PICKLE = "config.json", "params.safetensors", "params.pt"
KIND = "linear_tuned_lens"
PUBLISHED = "published"  # in the place of what a lens of ours starts from


def is_published(name: str) -> bool:
    """Whether this is a directory in the published format, and none of ours."""
    return (Path(name) / CONFIG).is_file() and not lens_store.is_saved(Path(name))


def load_tuned_lens(subject: Any, directory: str | Path, corpus: str = Training.corpus, passages: int = 96) -> str:
    """The name of a published tuned lens, taken into the cache: what `--learned-lenses.lens` and `show` read.

    corpus, passages: what the model's mean output is taken over, the control of every lens; the published format does
    not say what the lens itself was learned from. UserError: a pickle, another width, depth, kind or unembedding.
    """
    config, weights, digest = _read(Path(directory))
    _require(subject, Path(directory).name, config, weights)
    training = Training(corpus, passages, layers="none", states="none", positions="64", start=PUBLISHED)
    task = open_task(corpus)
    facts = {
        "subject": lens_store.identity(subject),
        "dtype": str(subject.dtype),
        "corpus": {"name": task.name, "version": task.module.VERSION, "options": task.options},
        "training": asdict(training) | {"steps": 0, "tuned_steps": 0},
        "published": {"of": config.get("base_model_name_or_path", ""), "sha256": digest},
        "versions": {"probes": PROBES},
    }
    key = store.key_of(facts)
    place = lens_store.home() / f"{store.safe_name(subject.name, 60)}.{key[:8]}"
    if not lens_store.is_saved(place):
        with store.locked(place):
            text, _ = activations(subject, training)
            read = {"ids": sorted(set(text.examples["id"])), "groups": sorted(set(text.examples["group"]))}
            losses = {f"tuned.{state}": [] for state in range(subject.n_layers)}
            record = {**facts, **read, "key": key, "name": place.name, "losses": losses}
            lens_store.save(place, _ours(weights, subject.n_layers) | mean_output(subject, text), record)
    return place.name


def save_tuned_lens(subject: Any, name: str, directory: str | Path) -> Path:
    """Writes a learned tuned lens in the published format, weights as safetensors; the directory.

    UserError: not there, of another model, without a lens for every state; a directory that has a lens already.
    """
    weights, record = lens_store.read(name, subject)
    directory = Path(directory)
    if lens_names(record, "tuned") != list(range(subject.n_layers)):
        raise UserError(f"lens {name} has no translator for every state: learn it with --learned-lenses.states all")
    if (directory / CONFIG).exists():
        raise UserError(f"{directory} has a {CONFIG} already: name a new directory")
    directory.mkdir(parents=True, exist_ok=True)
    theirs = {f"{i}.weight": weights[f"tuned.{i}.A"].T.contiguous() for i in range(subject.n_layers)}
    save_file(theirs | {f"{i}.bias": weights[f"tuned.{i}.b"] for i in range(subject.n_layers)}, directory / PARAMS)
    config = {
        "base_model_name_or_path": subject.name,
        "d_model": subject.d_model,
        "num_hidden_layers": subject.n_layers,
        "bias": True,
        "base_model_revision": subject.revision,
        "unembed_hash": unembedding_hash(subject),
        "lens_type": KIND,
    }
    (directory / CONFIG).write_text(json.dumps(config))
    return directory


def unembedding_hash(subject: Any) -> str:
    """As tuned-lens names an unembedding: SHA-256 of its corners, printed to one digit."""
    weight = head_parts(subject.model)[0].detach().cpu().float().numpy()
    return hashlib.sha256(np.array_str(weight, precision=1).encode()).hexdigest()


def _ours(weights: Weights, n_layers: int) -> Weights:
    """Without a bias where they have none."""
    A = {f"tuned.{i}.A": weights[f"{i}.weight"].float().T.contiguous() for i in range(n_layers)}
    b = {f"tuned.{i}.b": weights.get(f"{i}.bias", A[f"tuned.{i}.A"][0] * 0).float() for i in range(n_layers)}
    return A | b


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """The configuration, the weights and their SHA-256."""
    path = directory / PARAMS
    if not path.is_file() and (directory / PICKLE).is_file():
        raise UserError(
            f"{directory.name} has its weights as {PICKLE} alone, and pickles are never read: write {PARAMS} beside it "
            "(safetensors.torch.save_file of torch.load(…, weights_only=True), where you trust the file)"
        )
    try:
        config = json.loads((directory / CONFIG).read_text("utf-8"))
        return dict(config), load_file(path), hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{directory} cannot be read as a tuned lens ({CONFIG}, {PARAMS}): {error}") from error


def _require(subject: Any, name: str, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """UserError: a lens that no state of this model can be read by."""
    if (kind := config.get("lens_type", KIND)) != KIND:
        raise UserError(f"{name} is a lens of the type {kind}: {KIND} can be read")
    for fact, own in {"num_hidden_layers": subject.n_layers, "d_model": subject.d_model}.items():
        if config.get(fact) != own:
            raise UserError(
                f"tuned lens {name} has {fact} {config.get(fact)}, {subject.name} has {own}: it is another model's"
            )
    shapes = {f"{i}.weight": (own, own) for i in range(subject.n_layers) for own in [subject.d_model]}
    wrong = [key for key, shape in shapes.items() if key not in weights or tuple(weights[key].shape) != shape]
    if wrong:
        shape = tuple(weights[wrong[0]].shape) if wrong[0] in weights else "missing"
        raise UserError(
            f"tuned lens {name}: {wrong[0]} is {shape} and should be {shapes[wrong[0]]}: the file is broken"
        )
    told = config.get("unembed_hash")
    if told and told != unembedding_hash(subject):
        raise UserError(
            f"tuned lens {name} was learned with another unembedding than {subject.name}'s (of "
            f"{config.get('base_model_name_or_path')}): take unembed_hash out of its {CONFIG} to use it all the same"
        )
