"""Rows of LoFiT: how far learned scales move each head, and the answer under every edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.option_logits import OptionLogits, lead, wrong_options
from ._lofit_learned import CONTROLS, EDITS, OURS, PLAIN, edits_of, stronger
from ._lofit_training import editing, layers_of

READ = ("log p", "top-1", "lead")


def moved(layer: Layer, batch: Batch, scale: Any) -> Float[Tensor, "b h"]:
    """‖a ⊙ z‖, mean over an example's positions."""
    z = layer.z.float()
    change = metrics.edit_strength(torch.tensor(scale[layer.index])[: z.shape[2]].to(z.device) * z)
    real = batch.mask.to(z.device)[..., None]
    return (change.where(real, 0.0).sum(1) / real.sum(1)).cpu()


@torch.no_grad()
def under_edits(subject: Any, batch: Batch, learned: Any, options: Any) -> dict[str, Float[Tensor, "b ..."]]:
    """ "<READ>|<edit>" [b] of PLAIN and EDITS, NaN where nothing was learned; of OURS [b, strength], of CONTROLS [b,
    strength, draw].
    """
    edits = edits_of(learned)
    plain = _read(batch, subject.last_logits(batch))
    none = {name: torch.full((len(batch.examples),), torch.nan) for name in READ}
    rows = {f"{name}|{PLAIN}": values for name, values in plain.items()}
    for edit in EDITS:
        several = [] if edit == OURS else edits.get(edit, [])
        found = [_under(subject, batch, one) for one in several] or [none]
        rows |= {f"{name}|{edit}": found[0][name].clone() for name in READ}
    swept = {
        edit: [_swept(subject, batch, one, options.strengths) for one in edits.get(edit, [])]
        for edit in (OURS, *CONTROLS)
    }
    lost = {name: values[:, None].expand(-1, len(options.strengths)) for name, values in none.items()}
    rows |= {f"{name}|{OURS}": swept[OURS][0][name] for name in READ}
    return rows | {
        f"{name}|{edit}": torch.stack([one[name] for one in swept[edit] or [lost] * options.draws], 2)
        for edit in CONTROLS
        for name in READ
    }


def _swept(subject: Any, batch: Batch, edit: Any, strengths: Sequence[float]) -> dict[str, Float[Tensor, "b strength"]]:
    found = [_under(subject, batch, stronger(edit, strength)) for strength in strengths]
    return {name: torch.stack([one[name] for one in found], 1) for name in READ}


def _under(subject: Any, batch: Batch, edit: Any) -> dict[str, Tensor]:
    with editing(subject, edit, layers_of(edit)):
        return _read(batch, subject.last_logits(batch))


def _read(batch: Batch, logits: Float[Tensor, "b vocab"]) -> dict[str, Float[Tensor, " b"]]:
    """Log p of the answer, whether it is the likeliest of all words, its lead over the wrong options (NaN without)."""
    logits, answers = logits.float().cpu(), batch.answers
    own = logits.gather(1, answers[:, None])[:, 0]
    read = [own - logits.logsumexp(-1), (logits.argmax(-1) == answers).float()]
    bare = torch.tensor([not example.wrong for example in batch.examples])
    if bare.all():
        return dict(zip(READ, [*read, torch.full_like(own, torch.nan)], strict=True))
    measure = OptionLogits(answers, wrong_options(batch))
    leads = lead(measure(logits, torch.arange(len(answers)))).masked_fill(bare, torch.nan)
    return dict(zip(READ, [*read, leads], strict=True))
