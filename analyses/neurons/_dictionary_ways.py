"""A dictionary and what it is compared with: as many untrained directions, principal components, the mean state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.runs import lens_store
from ..common.controls import COMPONENTS, UNTRAINED
from ._dictionary import Dictionary, largest, open_dictionary
from ._dictionary_learning import best_size, unit

OWN, MEAN = "the dictionary", "the mean state"
WAYS = (OWN, UNTRAINED, COMPONENTS, MEAN)
FAR = 4.0  # times the median distance from the median state: beyond it a state is massive and is left as it is
BESIDE = "what a dictionary is compared with"


def ordinary(states: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """(median state [d], the distance from it beyond which a state is massive)."""
    centre = states.median(0).values
    return centre, FAR * (states - centre).norm(dim=-1).median()


def rivals(states: Float[Tensor, "n d"], features: int, active: int, seed: int) -> dict[str, Tensor]:
    """mean, components [active, d] of the states; untrained [features, d], unit directions, and their best size."""
    mean = states.mean(0)
    centred = (states - mean).double()
    generator = torch.Generator().manual_seed(seed)
    untrained = unit(torch.randn(features, states.shape[1], generator=generator))
    count = min(active, states.shape[1])
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].T.float()
    size = best_size(untrained, states - mean, active)
    return {"mean": mean, "components": components, "untrained": untrained, "size": size}


@dataclass(frozen=True, eq=False, repr=False)
class Ways:
    """Every way of telling a state by few numbers. dictionary: anything with `encode` and `decode`. beside: what
    `rivals` and `ordinary` found. active: how many untrained directions a state is told by.
    """

    dictionary: Any
    beside: Mapping[str, Tensor]
    active: int

    def told(self, way: str, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """What is left of states that are told by one of WAYS."""
        x = x.float()
        own = {name: tensor.to(x.device) for name, tensor in self.beside.items()}
        if way == OWN:
            return self.dictionary.decode(self.dictionary.encode(x))
        centred = x - own["mean"]
        if way == UNTRAINED:
            directions = own["untrained"]
            centred = largest(own["size"] * centred @ directions.T, self.active) @ directions
        elif way == COMPONENTS:
            centred = centred @ own["components"].T @ own["components"]
        else:
            centred = torch.zeros_like(x)
        return own["mean"] + centred

    def ordinary(self, x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n"]:
        """Which states are not massive."""
        centre, bound = (self.beside[name].to(x.device) for name in ("centre", "bound"))
        return (x.float() - centre).norm(dim=-1) <= bound

    def instead(self, way: str) -> Callable[[Tensor], Tensor]:
        """The edit: `told` for ordinary states, massive ones as they are."""

        def put(x: Tensor) -> Tensor:
            return torch.where(self.ordinary(x)[..., None], self.told(way, x).to(x), x)

        return put


def opened(subject: Any, learned: Any) -> Ways:
    """The ways of a run, by what it learned."""
    dictionary, _ = open_dictionary(subject, learned.dictionary)
    beside, record = lens_store.read(learned.beside, subject, (), BESIDE)
    return Ways(dictionary, beside, record["active"])


def active_of(dictionary: Dictionary) -> int:
    """With how many numbers the rivals may tell a state: the dictionary's k, at most a state's width."""
    return min(dictionary.k, len(dictionary.b_dec))
