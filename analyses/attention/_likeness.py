"""How layers' maps are alike, and what they make together: cosines, rollout, which positions reach the last one.

All of one forward, of a prompt's first tokens; of heads two layers are held at once, of layers the mean over heads.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import random_edges
from ..common.ragged import stacked
from ._first_tokens import even_maps, of_first_tokens, orders_of, sink_twin, with_shuffled_keys

FROM = 2  # rows before see no more than one key besides the first
KINDS = ("attention", "sink twin")
SHARES = ("first token", "last eight tokens", "image")
NEAR = 8
THRESHOLDS = (0.02, 0.1, 0.3)
DRAWS = 20


def likeness(subject: Any, batch: Batch, length: int) -> dict[str, Tensor]:
    """By example: "alike|KIND", "floor|KIND" [layer, layer]; "best|KIND", "best, shuffled|KIND" [layer]; "rolled",
    "rolled, uniform" [layer, SHARES]; "reached", "reached, random" [THRESHOLDS, layer]: see `_Walk`.
    """
    image = [own[real].cpu() for own, real in zip(batch.where("image"), batch.mask, strict=True)]
    walks = [_Walk(name, own, subject.n_layers) for name, own in zip(batch.example_ids, image, strict=True)]
    orders = orders_of(batch, length)

    def keep(layer: Layer) -> None:
        if layer.attends:
            maps = of_first_tokens(layer, batch, length)
            for walk, own, order in zip(walks, maps, orders, strict=True):
                walk.step(layer.index, own.cpu(), order)

    with tracing(subject, keep):
        subject.forward(batch)
    return stacked([walk.finished() for walk in walks])


class _Walk:
    """One example's maps from layer to layer."""

    def __init__(self, name: str, image: Bool[Tensor, "p"], n_layers: int) -> None:
        self.name, self.image, self.n_layers = name, image, n_layers
        self.means: dict[int, Tensor] = {}
        self.best: dict[str, dict[int, Tensor]] = {
            f"{c}|{kind}": {} for c in ("best", "best, shuffled") for kind in KINDS
        }
        self.edges: dict[int, Tensor] = {}
        self.rolled: dict[int, Tensor] = {}
        self.below: Tensor | None = None  # the heads of the layer before
        self.state: Tensor | None = None

    def step(self, index: int, maps: Float[Tensor, "h n n"], order: Int[Tensor, "length length"]) -> None:
        self.means[index] = maps.mean(0)
        if self.below is not None:
            for kind, change in (("attention", lambda one: one), ("sink twin", sink_twin)):
                here, under = change(maps), change(self.below)
                self.best[f"best|{kind}"][index] = _best(here, under)
                self.best[f"best, shuffled|{kind}"][index] = _best(here, change(with_shuffled_keys(self.below, order)))
        self.below = maps
        self.state = metrics.rollout_step(maps, self.state)
        self.rolled[index] = _shares(self.state[-1], self.image[: len(maps[0])])
        self.edges[index] = torch.stack([metrics.attention_edges(maps, t) for t in THRESHOLDS])

    def finished(self) -> dict[str, Tensor]:
        layers, means = [*self.means], torch.stack([*self.means.values()])
        n = means.shape[-1]
        image = self.image[:n]
        found: dict[str, Tensor] = {}
        for kind, maps in zip(KINDS, (means, sink_twin(means)), strict=True):
            alike, even = _cosines(maps, sink_twin(even_maps(n)) if kind == "sink twin" else even_maps(n))
            found[f"alike|{kind}"] = self._square(alike, layers)
            found[f"floor|{kind}"] = self._square(even[:, None] * even[None], layers)
        for name, values in self.best.items():
            found[name] = self._line(values)
        found["rolled"] = self._line(self.rolled, len(SHARES))
        found["rolled, uniform"] = self._line(_rolled_evenly(layers, n, image), len(SHARES))
        edges = torch.stack([*self.edges.values()], 1)
        found["reached"] = self._across(_coverage(edges), layers)
        found["reached, random"] = self._across(_random_coverage(edges, self.name), layers)
        return found

    def _line(self, values: dict[int, Tensor], width: int = 0) -> Tensor:
        whole = torch.full((self.n_layers, width) if width else (self.n_layers,), torch.nan)
        for index, value in values.items():
            whole[index] = value
        return whole

    def _square(self, values: Float[Tensor, "l l"], layers: list[int]) -> Tensor:
        whole = torch.full((self.n_layers, self.n_layers), torch.nan)
        whole[torch.tensor(layers)[:, None], torch.tensor(layers)] = values
        return whole

    def _across(self, values: Float[Tensor, "t l"], layers: list[int]) -> Tensor:
        whole = torch.full((len(values), self.n_layers), torch.nan)
        whole[:, layers] = values
        return whole


def _best(here: Float[Tensor, "h n n"], under: Float[Tensor, "h n n"]) -> Float[Tensor, ""]:
    """Cosine with the most like head of the layer before, mean over heads."""
    a, b = (one[:, FROM:].flatten(1) for one in (here, under))
    return (torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T).amax(1).mean()


def _cosines(
    maps: Float[Tensor, "l n n"], even: Float[Tensor, "n n"]
) -> tuple[Float[Tensor, "l l"], Float[Tensor, "l"]]:
    """Between layers, and of each layer with uniform attention."""
    rows, flat = maps[:, FROM:].flatten(1), even[FROM:].flatten()[None]
    norm = torch.nn.functional.normalize
    return norm(rows, dim=-1) @ norm(rows, dim=-1).T, (norm(rows, dim=-1) @ norm(flat, dim=-1).T)[:, 0]


def _shares(row: Float[Tensor, "n"], image: Bool[Tensor, "n"]) -> Float[Tensor, "shares"]:
    """Of the last position's rollout: on the first token, on the last ones, on the image; NaN without one."""
    on_image = row[image].sum() if bool(image.any()) else row.new_tensor(torch.nan)
    return torch.stack([row[0], row[-NEAR:].sum(), on_image])


def _rolled_evenly(layers: list[int], n: int, image: Bool[Tensor, "n"]) -> dict[int, Tensor]:
    state, found = None, {}
    for index in layers:
        state = metrics.rollout_step(even_maps(n)[None], state)
        found[index] = _shares(state[-1], image)
    return found


def _coverage(edges: Bool[Tensor, "t l n n"]) -> Float[Tensor, "t l"]:
    """Share of the positions in the last one's field after 1, 2, … layers from the top."""
    return torch.stack([metrics.reachable_positions(one).float().mean(-1) for one in edges])


def _random_coverage(edges: Bool[Tensor, "t l n n"], name: str) -> Float[Tensor, "t l"]:
    """Mean over DRAWS of as many edges in each row, to random positions before it."""
    return torch.stack([_coverage(random_edges(edges, f"{name} {draw}")) for draw in range(DRAWS)]).mean(0)
