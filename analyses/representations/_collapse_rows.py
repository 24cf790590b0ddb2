"""Last states of prompts that end in a run of one token: of every length of the run from one forward, since what comes
later changes nothing before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...probes.model import head
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import random_words
from ._states import by_state, states

MEASURES = ("apart", "final", "chunks")
OTHER = "another last token"
AT = "at"  # what is kept of every layer


def places(batch: Batch, first: int) -> Int[Tensor, "b lengths"]:
    """Where the n-th token of each prompt's run stands, n = first, 2·first, … as long as another one follows; −1 where
    the run is shorter. UserError: an image, a run in which fewer than two such lengths lie.
    """
    if bool(batch.where("image").any()):
        raise UserError("collapse reads texts that end in a token repeated many times, and here is an image")
    run = _runs(batch)
    for name, count in zip(batch.example_ids, run.tolist(), strict=True):
        if count < 2 * first + 1:
            raise UserError(
                f"collapse: example {name} ends in a token that stands there {count} times in a row; "
                f"{2 * first + 1} are needed, such as --task repeats has, or a smaller --collapse.first"
            )
    lengths = _lengths(int(run.max()), first)
    return torch.where(lengths < run[:, None], batch.last[:, None] - run[:, None] + lengths, -1)


def _runs(batch: Batch) -> Int[Tensor, " b"]:
    """How often the last token stands at the end of each prompt without another one between."""
    ids, at = batch.inputs["input_ids"].cpu(), torch.arange(batch.mask.shape[1])
    final = ids.gather(1, batch.last[:, None])
    others = (ids != final) | ~batch.mask
    behind = torch.where(others & (at < batch.last[:, None]), at, -1).amax(1)
    return batch.last - behind


def _lengths(run: int, first: int) -> Int[Tensor, " lengths"]:
    found = [first]
    while 2 * found[-1] < run:
        found.append(2 * found[-1])
    return torch.tensor(found)


def read(layer: Layer, index: Int[Tensor, "b s"]) -> dict[str, Tensor]:
    """ "at" [b, s, d]: the states that enter a layer at some positions; of the last layer also those that leave it."""
    return by_state(layer, lambda state: {AT: _take(state, index)})


def _take(states: Float[Tensor, "b p d"], index: Int[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
    index = index.clamp(min=0).to(states.device)
    return states[torch.arange(len(index), device=states.device)[:, None], index]


def whole(kept: Mapping[str, Tensor]) -> Float[Tensor, "b states s d"]:
    """The same of all layers."""
    return states(kept, (AT,))[AT]


def pairs(at: Int[Tensor, "b lengths"]) -> Int[Tensor, "b both"]:
    """The same places, and behind them those of one repetition more."""
    return torch.cat([at, torch.where(at < 0, -1, at + 1)], 1)


def states_at(subject: Any, inputs: Any, index: Int[Tensor, "b s"]) -> Float[Tensor, "b states s d"]:
    """The same of a forward of its own."""
    found: list[Tensor] = []

    def on_layer(layer: Layer) -> None:
        found.extend(state.cpu() for state in read(layer, index).values())

    with torch.no_grad(), tracing(subject, on_layer):
        subject.forward(inputs)
    return torch.stack(found, 1)


def with_another(subject: Any, batch: Batch, at: Int[Tensor, "b lengths"]) -> Float[Tensor, "b states lengths d"]:
    """The last states of the same prompts, cut behind each length, with another token, a random word, as the last."""
    ids, behind = batch.aligned(batch.inputs["input_ids"].cpu()), (at - batch.start[:, None] + 1).clamp(min=0)
    others = torch.tensor([_another(subject, int(own)) for own in ids.gather(1, behind[:, :1])[:, 0]])
    found = []
    for end in behind.unbind(1):
        cut = ids[:, : int(end.max()) + 1].clone()
        cut[torch.arange(len(cut)), end] = others
        mask = (torch.arange(cut.shape[1]) <= end[:, None]).long()
        found.append(states_at(subject, {"input_ids": cut, "attention_mask": mask}, end[:, None]))
    return torch.cat(found, 2)


def _another(subject: Any, own: int) -> int:
    return random_words(subject.tokenizer, (own,), frozenset({own}), head.vocabulary(subject.model))[0][0]


def distances(
    subject: Any, a: Float[Tensor, "b states lengths d"], b: Float[Tensor, "b states lengths d"], control: str = ""
) -> dict[str, Tensor]:
    """Relative distances in the residual stream [b, states, lengths]; after the final norm these ("final") and the mean
    over chunks of 64 channels of the largest difference ("chunks") [b, lengths].
    """
    x, y = (_normed(subject, states[:, -1]) for states in (a, b))
    found = (metrics.relative_distance(a, b), metrics.relative_distance(x, y), metrics.collapse_distance(x, y))
    return {named(name, control): values for name, values in zip(MEASURES, found, strict=True)}


def named(measure: str, control: str) -> str:
    return f"{measure}|{control}" if control else measure


@torch.no_grad()
def _normed(subject: Any, states: Tensor) -> Tensor:
    weight = next(subject.norm.parameters(), torch.empty(0, device=subject.device, dtype=subject.dtype))
    return subject.norm(states.to(weight.device)).float().cpu()
