"""What is summed over an example's tokens of every router, and its loss without some experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.observe.routing import Removed, Routed, routing
from ...probes.prompts.batch import Batch
from ..common.controls import EXPERTS
from ..common.losses import Scored, of_forward, scored
from ..common.places import text_without_first
from ..metrics import row_entropy

OWN = "taken out"
HOW = (OWN, EXPERTS)
Expert = Sequence[int]  # (layer, expert)


def sums_of(routed: Routed, kept: Bool[Tensor, "b p"]) -> dict[str, Float[Tensor, "b ..."]]:
    """Over the kept tokens of one router: "chosen" [b, expert], tokens for which an expert is chosen; "given"
    [b, expert], Σ of what its output is multiplied with; "gates" [b, expert], Σ softmax of all logits; "entropy" [b],
    Σ of these softmaxes' entropies, nats.
    """
    kept = kept.to(routed.logits.device).float()
    gates = routed.logits.float().softmax(-1)
    experts = gates.shape[-1]
    slots = torch.nn.functional.one_hot(routed.chosen.long(), experts).float()
    given = torch.einsum("nk,nke->ne", routed.weights.float(), slots)

    def over(tensor: Tensor) -> Tensor:
        return torch.einsum("bp,bpe->be", kept, tensor.reshape(*kept.shape, -1))

    entropy = over(row_entropy(gates)[:, None])[:, 0]
    return {"chosen": over(slots.sum(1)), "given": over(given), "gates": over(gates), "entropy": entropy}


def routed_rows(
    subject: Any, batch: Batch, asked: Scored | None = None
) -> tuple[dict[str, Float[Tensor, "b layer ..."]], Float[Tensor, "b"]]:
    """`sums_of` every layer, NaN in those without a router, "tokens" [b]; and the clean loss of what is asked."""
    kept, found = text_without_first(batch), dict[int, dict[str, Tensor]]()

    def keep(layer: int, routed: Routed) -> None:
        found[layer] = {name: value.cpu() for name, value in sums_of(routed, kept).items()}

    with torch.no_grad(), routing(subject, keep):
        loss = of_forward(subject, batch, asked or scored(batch, 1))[:, 0]
    rows = {"tokens": kept.sum(1).float().cpu()}
    for name, value in next(iter(found.values())).items():
        nothing = torch.full_like(value, torch.nan)
        rows[name] = torch.stack([found[i][name] if i in found else nothing for i in range(subject.n_layers)], 1)
    return rows, loss


def removed(
    subject: Any, batch: Batch, clean: Float[Tensor, "b"], asked: Scored, learned: Any
) -> Float[Tensor, "b label how"]:
    """How much larger the loss of a token is without each label's experts, or without as many random ones (mean over
    draws), nats; NaN where there are none.
    """
    plan = [(i, 0, own) for i, own in enumerate(learned.specific)]
    plan += [(i, 1, own) for draw in learned.random for i, own in enumerate(draw)]
    sums, counts = torch.zeros(2, len(batch.examples), len(learned.labels), len(HOW))
    for label, how, own in plan:
        if len(own):
            with routing(subject, removed=by_layer(own)):
                sums[:, label, how] += of_forward(subject, batch, asked)[:, 0] - clean
            counts[:, label, how] += 1
    return sums / counts.masked_fill(counts == 0, torch.nan)


def by_layer(experts: Sequence[Expert]) -> Removed:
    """Layer -> its experts."""
    found: dict[int, list[int]] = {}
    for layer, expert in experts:
        found.setdefault(int(layer), []).append(int(expert))
    return found
