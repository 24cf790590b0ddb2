"""Directions learned from held-out examples, their controls, and what they cost in neutral text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...data.tasks import passages
from ...probes.intervene.interventions import Add, ProjectOut, Variant
from ...probes.intervene.positions import at_last
from ...probes.intervene.recording import record
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import permuted_labels, random_in_subspace
from ..common.losses import Losses, rows_before, scored

SITE = "resid_post"
TOKENS, READ_AT = 32, 16  # of a neutral text: its length, and how many of its next tokens are read
TRIES = 100  # draws of permuted labels, among which those are found that leave both sets something


def offers(example: Example, positive: str) -> bool:
    """Whether the answer is this one, or another that had it as an option."""
    return positive in {option.strip() for option in (example.answer, *example.wrong)} and bool(example.wrong)


def most_frequent(examples: Sequence[Example]) -> str:
    """The answer that most examples have, the first by name of several. UserError: none has an answer."""
    counted = Counter(example.answer.strip() for example in examples if example.answer and example.wrong)
    if not counted:
        raise UserError("directions: no example has an answer and a wrong one: a direction needs a task with both")
    return min(counted, key=lambda answer: (-counted[answer], answer))


def states_of(
    subject: Any, batches: Sequence[Batch], positive: str
) -> tuple[Float[Tensor, "n layer d"], Bool[Tensor, " n"], np.ndarray]:
    """States behind every layer at the last position, whether the answer is the positive one, and the groups, of the
    examples that offer it. UserError: fewer than two of either kind.
    """
    kept = [example for batch in batches for example in batch.examples if offers(example, positive)]
    labels = torch.tensor([example.answer.strip() == positive for example in kept], dtype=torch.bool)
    for kind, count in (("", int(labels.sum())), ("another option than ", int((~labels).sum()))):
        if count < 2:
            raise UserError(
                f"directions: {count} held-out examples have {kind}{positive!r} as their answer, two are needed "
                "(--directions.positive, --limit)"
            )
    whole = [_states(subject, batch, positive) for batch in batches]
    return torch.cat(whole), labels, np.array([example.group for example in kept])


def _states(subject: Any, batch: Batch, positive: str) -> Float[Tensor, "n layer d"]:
    found: list[Tensor] = []

    def keep(layer: Layer) -> None:
        found.append(at_last(layer.resid_post, batch.last).float().cpu())

    with tracing(subject, keep), torch.no_grad():
        subject.forward(batch)
    return torch.stack(found, 1)[[offers(example, positive) for example in batch.examples]]


def directions(
    states: Float[Tensor, "n layer d"], labels: Bool[Tensor, " n"], groups: np.ndarray, draws: int, components: int
) -> tuple[Float[Tensor, "kind layer d"], Float[Tensor, " layer"]]:
    """Unit directions, the measured one first, then `draws` of permuted labels, then as many random ones; and the
    states' spread along the measured one.
    """
    by_layer = states.unbind(1)
    permuted = _permuted(labels, groups, draws)
    kinds = [torch.stack([_means(x, own) for x in by_layer]) for own in (labels, *permuted)]
    for draw in range(draws):
        keys = [f"{draw} layer {i}" for i in range(len(by_layer))]
        kinds.append(torch.stack([random_in_subspace(x, components, k) for x, k in zip(by_layer, keys, strict=True)]))
    spreads = [
        metrics.spread_along(x[labels], x[~labels], d) if d.norm() > 0 else x.new_zeros(())
        for x, d in zip(by_layer, kinds[0], strict=True)
    ]
    return torch.nn.functional.normalize(torch.stack(kinds), dim=-1), torch.stack(spreads)


def _means(states: Float[Tensor, "n d"], labels: Bool[Tensor, " n"]) -> Float[Tensor, " d"]:
    return metrics.difference_of_means(states[labels], states[~labels])


def _permuted(labels: Bool[Tensor, " n"], groups: np.ndarray, draws: int) -> list[Bool[Tensor, " n"]]:
    """UserError: no permutation leaves both sets an example and differs from the labels."""
    drawn = (torch.from_numpy(permuted_labels(labels.numpy(), groups, draw)) for draw in range(TRIES))
    found = [one for one in drawn if 0 < one.sum() < len(one) and not torch.equal(one, labels)][:draws]
    if len(found) < draws:
        raise UserError(f"directions: the labels of {len(set(groups))} groups cannot be permuted: raise --limit")
    return found


def edits(
    units: Float[Tensor, "layer d"],
    spreads: Float[Tensor, " layer"],
    strengths: Sequence[float],
    positions: Bool[Tensor, "b p"] | None,
) -> list[Variant]:
    """By layer: the direction added in each strength, then projected out."""
    found: list[Variant] = []
    for layer, (unit, spread) in enumerate(zip(units, spreads, strict=True)):
        found += [{layer: (Add(SITE, positions, strength * spread * unit),)} for strength in strengths]
        found.append({layer: (ProjectOut(SITE, positions, unit),)})
    return found


def extremes(strengths: Sequence[float]) -> list[float]:
    """The least and the greatest, or the only one."""
    return sorted({min(strengths), max(strengths)})


def neutral(subject: Any, units: Tensor, spreads: Tensor, options: Any) -> list[Any]:
    """What edits at every position cost passages of novels, nats a token: by text [kind, layer, strength or out], of
    the measured direction and of the first random one, in the `extremes` of the strengths.
    """
    texts = passages.examples(options.texts, 0, tokenizer=subject.tokenizer, tokens=TOKENS)
    batch = subject.batch(texts, template=passages.TEMPLATE, bos=passages.BOS)
    base, asked = record(subject, batch, (SITE,)), scored(batch, READ_AT)
    kinds, strengths = units[[0, 1 + options.draws]], extremes(options.strengths)
    plan = [variant for kind in kinds for variant in edits(kind, spreads, strengths, None)]
    losses = Losses(base, asked, rows_before(asked, base)).read([{}, *plan])[0][..., 0]
    shape = len(kinds), len(spreads), len(strengths) + 1
    return [one.reshape(shape).tolist() for one in (losses[1:] - losses[0]).T]
