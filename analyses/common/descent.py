"""Descent on minibatches of kept activations: resumable, the same result however often it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...data.errors import UserError
from ...data.progress import tracked
from ...probes.runs import store

Weights = dict[str, Tensor]
EVERY = 25  # steps between checkpoints


@dataclass(frozen=True)
class Descent:
    """Adam with a rate that falls linearly to 0. batch: positions of a step."""

    steps: int
    batch: int
    rate: float
    seed: int = 0


def require_batch(n: int, descent: Descent, what: str) -> None:
    """UserError: fewer positions than one batch needs."""
    if descent.steps and n < descent.batch:
        raise UserError(
            f"{what}: the corpus gives {n} positions and a batch takes {descent.batch}: take more passages or a "
            "smaller batch"
        )


def chosen_rows(n: int, step: int, descent: Descent) -> Tensor:
    """The minibatch of a step, from the seed and the step alone: every epoch a new order, its rest left out."""
    epoch, place = divmod(step, n // descent.batch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(descent.seed + epoch))
    return order[place * descent.batch : (place + 1) * descent.batch]


@torch.enable_grad()
def descend(
    weights: Weights,
    loss: Callable[[Weights, Tensor], Tensor],
    n: int,
    descent: Descent,
    checkpoint: Path,
    what: str = "training",
    at_once: int | None = None,
) -> tuple[Weights, list[float]]:
    """Weights after all steps, and the loss of each. loss(weights, rows): mean over the rows of a minibatch.

    checkpoint: a file that a stopped call leaves and the next one goes on from; deleted at the end. at_once: rows whose
    graph is alive at once, None for the whole minibatch; the gradient is the same sum.
    """
    require_batch(n, descent, what)
    state, losses = _resume(checkpoint, weights, descent)
    leaves = {name: tensor.requires_grad_() for name, tensor in state["weights"].items()}
    steps = range(len(losses), descent.steps)
    for step in tracked(steps, what, "steps", done=len(losses)):
        losses.append(sum(_backward(leaves, loss, chosen_rows(n, step, descent), at_once or descent.batch)))
        _adam(leaves, state["mean"], state["square"], step, descent.rate * (1 - step / descent.steps))
        if (step + 1) % EVERY == 0 and step + 1 < descent.steps:
            _keep(checkpoint, state, losses, descent)
    checkpoint.unlink(missing_ok=True)
    return {name: tensor.detach() for name, tensor in leaves.items()}, losses


def _backward(
    leaves: Weights, loss: Callable[[Weights, Tensor], Tensor], rows: Tensor, at_once: int
) -> Iterator[float]:
    """Adds the loss's gradient to the leaves, a few rows at a time, and gives each part's share of the loss."""
    for part in rows.split(at_once):
        value = loss(leaves, part) * (len(part) / len(rows))
        value.backward()
        yield float(value.detach())


@torch.no_grad()
def _adam(weights: Weights, mean: Weights, square: Weights, step: int, rate: float) -> None:
    """One step in place (Kingma and Ba's constants); written out so that its state is three plain dictionaries."""
    for name, weight in weights.items():
        gradient = weight.grad
        assert gradient is not None
        mean[name].lerp_(gradient, 0.1)
        square[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        deviation = (square[name] / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
        weight.addcdiv_(mean[name], deviation, value=-rate / (1 - 0.9 ** (step + 1)))
        weight.grad = None


def _resume(checkpoint: Path, weights: Weights, descent: Descent) -> tuple[dict[str, Weights], list[float]]:
    if checkpoint.exists():
        kept = store.read_rows(checkpoint, repr(descent), ())
        losses = json.loads(bytes(kept.pop("losses").tolist()))
        parts = {part: {n: kept[f"{part}:{n}"] for n in weights} for part in ("weights", "mean", "square")}
        return parts, losses
    fresh = {name: tensor.detach().clone() for name, tensor in weights.items()}
    return {"weights": fresh, **{p: {n: torch.zeros_like(t) for n, t in fresh.items()} for p in ("mean", "square")}}, []


def _keep(checkpoint: Path, state: dict[str, Weights], losses: list[float], descent: Descent) -> None:
    tensors = {f"{part}:{name}": tensor for part, held in state.items() for name, tensor in held.items()}
    text = torch.tensor(list(json.dumps(losses).encode()), dtype=torch.uint8)
    store.save_rows(checkpoint, {**tensors, "losses": text}, repr(descent), ())


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model's own weights take no gradient during the block."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def kl_to(target: Tensor, logits: Tensor) -> Tensor:
    """Mean KL(target ‖ softmax(logits)) of rows; target: log-probabilities [n, vocab]. With gradient."""
    return (target.exp() * (target - logits.float().log_softmax(-1))).sum(-1).mean()
