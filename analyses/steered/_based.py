"""The next token under several rotary bases, each alone and mixed, summed by how much of the context was read."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.intervene.proofs import verify_edit
from ...probes.intervene.readout import states_of_variants
from ...probes.intervene.recording import record
from ...probes.intervene.rope import own_base, turned_by
from ...probes.intervene.sweep import Variant
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.losses import Scored, rows_before, scored

TRAINED, MIXED, DISTRIBUTIONS = "the trained base", "all bases mixed", "their distributions mixed"
NEAR = "as many bases within 1 % of the trained one, mixed"
WITHIN = 0.01
DOUBLINGS = 16  # rows are summed by ⌊log2⌋ of the tokens that are read
AT_ONCE = 16  # tokens whose logits are held under every base
FAR, STEP = 256, 2  # of the waveform, in tokens
READ = ("loss", "probability")


def near(count: int) -> list[float]:
    """So many factors, evenly between 1 − WITHIN and 1 + WITHIN."""
    return (1 + WITHIN * torch.linspace(-1, 1, count, dtype=torch.float64)).tolist()


def kinds(factors: tuple[float, ...]) -> list[str]:
    """What rows hold, in order: the trained base, each one alone, the mixtures."""
    return [TRAINED, *(alone(factor) for factor in factors), MIXED, DISTRIBUTIONS, NEAR]


def alone(factor: float) -> str:
    return f"base × {factor:g}"


@torch.no_grad()
def based(subject: Any, batch: Batch, factors: tuple[float, ...], positions: int) -> dict[str, Tensor]:
    """Σ over tokens that are asked for: each of READ [b, kind, doubling], "weight" [b, base]; "count" [b, doubling]."""
    asked = scored(batch, positions)
    states = _states(subject, batch, factors, asked)
    there = asked.targets >= 0
    targets, places = asked.targets[there], asked.places[there]
    example = there.nonzero()[:, 0]
    read = (places - batch.start[example] + 1).clamp(min=1)
    doubling = read.float().log2().floor().long().clamp(max=DOUBLINGS - 1)
    told = states[:, there.to(states.device)]
    losses, weights = [], []
    for start in range(0, len(targets), AT_ONCE):
        part = told[:, start : start + AT_ONCE]
        logits = subject.unembed(part.flatten(0, 1)).float().unflatten(0, part.shape[:2])
        loss, weight = losses_of(logits, targets[start : start + AT_ONCE].to(logits.device), len(factors))
        losses.append(loss.cpu())
        weights.append(weight.cpu())
    loss, n = torch.cat(losses, 1), len(batch.examples)
    cells = example * DOUBLINGS + doubling
    values = {"loss": loss, "probability": (-loss).exp()}
    found = {name: _summed(one.T, cells, n * DOUBLINGS).unflatten(0, (n, -1)).mT for name, one in values.items()}
    found["count"] = _summed(torch.ones(len(cells), 1), cells, n * DOUBLINGS)[:, 0].unflatten(0, (n, -1))
    return found | {"weight": _summed(torch.cat(weights), example, n)}


def losses_of(
    logits: Float[Tensor, "variant n vocab"], targets: Int[Tensor, "n"], count: int
) -> tuple[Float[Tensor, "kind n"], Float[Tensor, "n base"]]:
    """Loss of each kind, and the bases' weights in the mixture. logits: of the trained base, of `count` bases, and of
    as many near it.
    """
    own, far, close = logits[:1], logits[1 : 1 + count], logits[1 + count :]
    mixed = metrics.mix_bases(far.movedim(0, 1))
    distributions = far.log_softmax(-1).logsumexp(0) - torch.tensor(float(count)).log()
    nearby = metrics.mix_bases(close.movedim(0, 1)).logits
    whole = torch.cat([own, far, mixed.logits[None].to(far), distributions[None], nearby[None].to(far)])
    return -whole.log_softmax(-1).gather(2, targets.expand(len(whole), -1)[..., None])[..., 0], mixed.weights


def _states(subject: Any, batch: Batch, factors: tuple[float, ...], asked: Scored) -> Float[Tensor, "variant b n d"]:
    """Behind the final norm: of the model as it is, of each base, of as many near its own; each has its own keys."""
    base, own = record(subject, batch), own_base(subject)
    where = rows_before(asked, base)
    turned = [turned_by(subject, own * factor, batch) for factor in (*factors, *near(len(factors))) if factor != 1]
    layer = subject.decoder.attending[0]
    verify_edit(base, where, [{layer: turned[-1][layer]}])
    variants: list[Variant] = [{0: ()}, *turned]
    found = dict(states_of_variants(base, where, variants, asked.places))
    behind = iter(range(1, len(variants)))
    order = [0, *(0 if factor == 1 else next(behind) for factor in (*factors, *near(len(factors))))]
    return torch.stack([subject.norm(found[i]) for i in order])


def _summed(values: Float[Tensor, "n m"], at: Int[Tensor, "n"], size: int) -> Float[Tensor, "size m"]:
    return torch.zeros(size, values.shape[1]).index_add_(0, at, values.float())
