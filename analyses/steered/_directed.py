"""What the answers of a batch do with each direction added or projected out, in one layer after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.example import Example
from ...probes.intervene.recording import record
from ...probes.intervene.sweep import variant_sweep
from ...probes.prompts.batch import Batch
from ..common.changed import changed
from ..common.option_logits import OptionLogits, filled, is_right, lead
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
    ids = filled([_ids(mine.batch, example, learned.positive) for example in mine.batch.examples])
    positive = torch.tensor([example.answer.strip() == learned.positive for example in mine.batch.examples])
    sweep = variant_sweep(base, plan, base.final, measure=OptionLogits(ids[:, 0], ids[:, 1:]))
    edited, clean = (_numbers(logits, positive) for logits in (sweep.values, sweep.clean))
    rows = {f"edited|{name}": edited[name].T.reshape(-1, *shape) for name in READ}
    rows |= {f"clean|{name}": clean[name] for name in READ}
    return {name: mine.spread(values) for name, values in rows.items()}


def _numbers(logits: Float[Tensor, "*v b 1+m"], positive: Bool[Tensor, " b"]) -> dict[str, Float[Tensor, "*v b"]]:
    """READ, of the logits of the positive answer and of the other options; where another answer is right it comes
    second.
    """
    logits = logits.float().cpu()
    gap, other = lead(logits), logits[..., 1]
    rivals = torch.cat([logits[..., :1], logits[..., 2:]], -1).amax(-1)
    right = torch.where(positive, is_right(logits), (other > rivals).float())
    return dict(zip(READ, (gap, torch.where(positive, gap, other - logits[..., 0]), right), strict=True))


def _ids(batch: Batch, example: Example, positive: str) -> list[int]:
    options = (example.answer, *example.wrong)
    first = [option for option in options if option.strip() == positive]
    others = [option for option in options if option.strip() != positive]
    return [batch.first_token_of(example, option) for option in (first[0], *others)]
