"""What the answers of a batch do with each direction added or projected out, in one layer after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.example import Example
from ...probes.intervene.recording import record
from ...probes.intervene.sweep import variant_sweep
from ...probes.prompts.batch import Batch
from ..common.changed import changed
from ._learned_directions import SITE, edits, offers

READ = ("for the answer", "for the right answer", "right")


def directed(subject: Any, batch: Batch, learned: Any, strengths: Sequence[float]) -> dict[str, Float[Tensor, "b ..."]]:
    """Of each of READ: "clean|…" [b], "edited|…" [b, kind, layer, strength or out]; NaN where an example does not
    offer the answer.
    """
    mine = changed(subject, batch, lambda example: example if offers(example, learned.positive) else None)
    units, spreads = torch.tensor(learned.units), torch.tensor(learned.spreads)
    shape = len(units), len(spreads), len(strengths) + 1
    if mine is None:
        n = len(batch.examples)
        return {f"edited|{name}": torch.full((n, *shape), torch.nan) for name in READ} | {
            f"clean|{name}": torch.full((n,), torch.nan) for name in READ
        }
    base = record(subject, mine.batch, (SITE,))
    plan = [variant for kind in units for variant in edits(kind, spreads, strengths, base.final)]
    read = _Options(mine.batch, learned.positive)
    sweep = variant_sweep(base, plan, base.final, measure=read)
    edited, clean = (read.numbers(logits) for logits in (sweep.values, sweep.clean))
    rows = {f"edited|{name}": edited[name].T.reshape(-1, *shape) for name in READ}
    rows |= {f"clean|{name}": clean[name] for name in READ}
    return {name: mine.spread(values) for name, values in rows.items()}


class _Options:
    """A measure: the logits of the positive answer and of the other options, [n, 1 + m]; −∞ where one is missing. Where
    another answer is right it comes second.
    """

    def __init__(self, batch: Batch, positive: str) -> None:
        rows = [_ids(batch, example, positive) for example in batch.examples]
        width = max(map(len, rows))
        self.ids: Int[Tensor, "b 1+m"] = torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in rows])
        self.positive = torch.tensor([example.answer.strip() == positive for example in batch.examples])

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        ids = self.ids.to(logits.device)[rows.to(logits.device)]
        return logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)

    def numbers(self, logits: Float[Tensor, "*v b 1+m"]) -> dict[str, Float[Tensor, "*v b"]]:
        """READ, of what was measured."""
        logits = logits.float().cpu()
        own, others = logits[..., 0], logits[..., 1:]
        there = others.isfinite()
        gap = own - others.where(there, 0.0).sum(-1) / there.sum(-1)
        other = others[..., 0]
        rivals = torch.cat([logits[..., :1], others[..., 1:]], -1).amax(-1)
        right = torch.where(self.positive, own > others.amax(-1), other > rivals)
        return dict(zip(READ, (gap, torch.where(self.positive, gap, other - own), right.float()), strict=True))


def _ids(batch: Batch, example: Example, positive: str) -> list[int]:
    options = (example.answer, *example.wrong)
    first = [option for option in options if option.strip() == positive]
    others = [option for option in options if option.strip() != positive]
    return [batch.first_token_of(example, option) for option in (first[0], *others)]
