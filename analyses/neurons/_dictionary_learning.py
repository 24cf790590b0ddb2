"""From held-out texts to a dictionary of a site: one forward each, then descent on the error of its reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...probes import VERSION as PROBES
from ...probes.observe.capture import parse_site
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.runs import lens_store, store
from ...probes.runs.job import PACKAGES
from ..common.descent import Descent, Weights, descend, require_batch
from ..common.labels import label_of
from ..common.places import text_without_first
from ._counts import has_neurons
from ._dictionary import WHAT, largest

LEARNING = 1  # raised when the same training gives another dictionary
SAMPLE, NOISE = 2048, 0.1  # states that tell the size of the start; how far it is from the drawn ones
REVIVED, SHARE = 128, 1 / 32  # silent features that explain what is left of a minibatch, and the weight of that loss


@dataclass(frozen=True)
class Training:
    """width: features for each number of a state. active: features that a state has at most. steps of Adam on `batch`
    states, its rate falling to 0.
    """

    width: int = 4
    active: int = 32
    steps: int = 500
    batch: int = 256
    rate: float = 3e-3
    seed: int = 0


class Seen(NamedTuple):
    """What the held-out texts hold at a site, token by token: states, the token, the number of the text's label (−1
    without); neurons: of the layer's MLP, tokens of each label that activate one, None where it has none.
    """

    states: Float[Tensor, "n d"]
    ids: Int[Tensor, " n"]
    label: Int[Tensor, " n"]
    neurons: Float[Tensor, "label neuron"] | None

    def tokens(self, labels: int) -> Float[Tensor, "label 1"]:
        """How many tokens each label has, at least 1."""
        own = self.label[self.label >= 0]
        return torch.bincount(own, minlength=labels)[:labels, None].clamp_min(1).float()


def look(subject: Any, batches: Sequence[Batch], site: str, labels: Sequence[str]) -> Seen:
    """One forward for every batch. UserError: no token of text behind a first one."""
    place, parts = parse_site(subject, site), []
    fires: list[Tensor] = []
    for batch in batches:
        kept = text_without_first(batch)
        own = torch.tensor([labels.index(label_of(e)) if label_of(e) in labels else -1 for e in batch.examples])
        label = own[:, None].expand(kept.shape)[kept]

        def keep(layer: Layer, batch: Batch = batch, kept: Tensor = kept, label: Tensor = label) -> None:
            if layer.index != place.layer:
                return
            states = layer.written(place.site.name)[kept.to(layer.resid_pre.device)].float().cpu()
            parts.append((states, batch.inputs["input_ids"][kept], label))
            if labels and has_neurons(layer.stack, layer.index):
                fires.append(_fires(layer, kept, label, len(labels)))

        with tracing(subject, keep):
            subject.forward(batch)
    if not sum(len(states) for states, _, _ in parts):
        raise UserError("dictionaries: the held-out examples have no token of text behind their first one")
    states, ids, label = (torch.cat(each) for each in zip(*parts, strict=True))
    return Seen(states, ids, label, torch.stack(fires).sum(0) if fires else None)


def _fires(layer: Layer, kept: Tensor, label: Tensor, count: int) -> Tensor:
    """[label, neuron]: tokens at which the activation function gives more than 0."""
    active = (layer["mlp_pre"][kept.to(layer.resid_pre.device)] > 0).float().cpu()
    known = label >= 0
    return torch.zeros(count, active.shape[1]).index_add_(0, label[known], active[known])


def learn(subject: Any, batches: Sequence[Batch], site: str, training: Training, states: Tensor) -> str:
    """The name in the cache of the dictionary of these states, learned first where it is not there yet.

    Killed, it goes on from its last checkpoint. UserError: fewer states than a batch.
    """
    examples = [example for batch in batches for example in batch.examples]
    corpus = {"ids": sorted({e.id for e in examples}), "groups": sorted({e.group for e in examples})}
    facts = {"what": WHAT, "site": site, "k": training.active, "training": asdict(training), **corpus}
    facts |= {"subject": lens_store.identity(subject), "dtype": str(subject.dtype)}
    facts |= {"corpus": {"name": "held-out examples", "form": batches[0].form, "states": len(states)}}
    facts |= {"versions": {**{name: version(name) for name in PACKAGES}, "learning": LEARNING, "probes": PROBES}}
    key = store.key_of(facts)
    directory = lens_store.home() / f"{store.safe_name(subject.name, 50)}.{WHAT}.{key[:8]}"
    if not lens_store.is_saved(directory):
        with store.locked(directory):
            weights, losses = train(states, training, directory / "part.checkpoint")
            lens_store.save(directory, weights, {**facts, "key": key, "name": directory.name, "losses": losses})
    return directory.name


def train(states: Float[Tensor, "n d"], training: Training, checkpoint: Path) -> tuple[Weights, list[float]]:
    """W_enc, b_enc, W_dec (rows of unit length), b_dec; and the loss of each step, the share of variance not explained
    (with that of the silent features). Begun at as many states less their mean, drawn by the seed.
    """
    descent = Descent(training.steps, training.batch, training.rate, training.seed)
    require_batch(len(states), descent, WHAT)
    mean = states.mean(0)
    scale = (states - mean).square().mean().sqrt()
    scaled = (states - mean) / scale

    def loss(weights: Weights, rows: Tensor) -> Tensor:
        return reconstruction_loss(weights, scaled[rows], training.active)

    first = begin(scaled, training.width * states.shape[1], training.active, training.seed)
    found, losses = descend(first, loss, len(states), descent, checkpoint, WHAT)
    W_dec, shift = unit(found["W_dec"]), found["b_dec"]
    # Back to the states' own scale: directions stay, activations grow with the states.
    found = {"W_enc": found["W_enc"], "b_enc": found["b_enc"] * scale, "W_dec": W_dec, "b_dec": mean + shift * scale}
    return found, losses


def begin(scaled: Float[Tensor, "n d"], features: int, active: int, seed: int) -> Weights:
    """Directions of drawn states, and the encoder their transpose, times the one number that reconstructs best."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(scaled), (features,), generator=generator)
    noise = unit(torch.randn(features, scaled.shape[1], generator=generator))
    W_dec = unit(unit(scaled[drawn]) + NOISE * noise)  # no two alike where a state is drawn twice
    size = best_size(W_dec, scaled, active)
    return {
        "W_enc": (size * W_dec.T).contiguous(),
        "b_enc": torch.zeros(features),
        "W_dec": W_dec,
        "b_dec": torch.zeros(scaled.shape[1]),
    }


def best_size(W_dec: Float[Tensor, "feature d"], states: Float[Tensor, "n d"], active: int) -> Tensor:
    """The number by which the encoder has to be the decoder's transpose for the least squared error."""
    sample = states[:: max(1, len(states) // SAMPLE)]
    told = largest(sample @ W_dec.T, active) @ W_dec
    return (sample * told).sum() / told.square().sum().clamp_min(1e-12)


def reconstruction_loss(weights: Weights, x: Float[Tensor, "n d"], active: int) -> Tensor:
    """Mean squared error, and a little of what features that are silent in this minibatch leave of it."""
    W_dec = unit(weights["W_dec"])
    before = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    activations = largest(before, active)
    left = x - weights["b_dec"] - activations @ W_dec
    silent = ~(activations > 0).any(0)
    count = min(REVIVED, int(silent.sum()))
    if not count:
        return left.square().mean()
    revived = largest(before[:, silent], count) @ W_dec[silent]
    return left.square().mean() + SHARE * (left.detach() - revived).square().mean()


def unit(directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
