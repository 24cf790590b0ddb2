"""What states say through the Jacobian lens, the logit lens and turned maps; and what gradients say in words."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.intervene.attribution import frozen_weights
from ...probes.intervene.positions import at_last
from ...probes.model.head import in_rows
from ...probes.prompts.batch import Batch
from .. import metrics
from ..common.controls import turned_map
from ._jacobian import logits, open_jacobian, states_with_gradient
from ._jacobian_tables import GRADIENT, JACOBIAN, LOGIT, TURNED_AT

READ = ("rank", "kl", "top1")


@torch.no_grad()
def read_states(subject: Any, name: str, states: Float[Tensor, "b state d"], batch: Batch) -> dict[str, Tensor]:
    """ "<lens>|rank" [b, state, 2] (answer, wrong answer), "<lens>|kl", "<lens>|top1" [b, state], of `LOGIT`,
    `JACOBIAN` and each turned map; "lead" [b], the logit difference at the end. The last state is the model's output.
    """
    ids = torch.stack([batch.answers, batch.wrong], 1)
    return in_rows(partial(_readings, subject, name), subject.model, ids.to(states.device), states)


def _readings(subject: Any, name: str, ids: Tensor, states: Tensor) -> dict[str, Tensor]:
    ids, states = ids.to(subject.device), states.to(subject.device)
    final = subject.unembed(subject.norm(states[:, -1])).float()
    reference = final.softmax(-1), metrics.entropy(final)
    said = final.gather(1, ids)
    rows: dict[str, list[Tensor]] = {}
    for state, x in enumerate(states.unbind(1)):
        matrix = open_jacobian(subject, name, state).to(x.device)
        maps = {JACOBIAN: matrix} | {way: turned_map(matrix, way) for way in TURNED_AT}
        read = {LOGIT: subject.unembed(subject.norm(x))} | {w: logits(subject, m, x) for w, m in maps.items()}
        for way, of in read.items():
            found = metrics.lens_readings(of.float(), ids, *reference)
            found["top1"] = of.argmax(-1) == final.argmax(-1)
            for measure in READ:
                rows.setdefault(f"{way}|{measure}", []).append(found[measure].float())
    return {key: torch.stack(values, 1) for key, values in rows.items()} | {"lead": said[:, 0] - said[:, 1]}


def read_gradients(subject: Any, batch: Batch) -> dict[str, Tensor]:
    """ "gradient|rank" [b, state, 2]: minus the gradient of −log p(answer) in each state at the last position, through
    the final norm and the unembedding; ranks of the answer and the wrong answer. The last state's gradient among them.
    """
    last = batch.last.to(subject.device)
    with frozen_weights(subject.model):
        states, end = states_with_gradient(subject, batch)
        with torch.enable_grad():
            said = subject.unembed(subject.norm(at_last(end, last))).float().log_softmax(-1)
            loss = -said.gather(1, batch.answers.to(said.device)[:, None]).sum()
        slopes = torch.autograd.grad(loss, [*states, end])
    ids = torch.stack([batch.answers, batch.wrong], 1).to(subject.device)
    down = torch.stack([-at_last(slope.reshape(end.shape), last) for slope in slopes], 1).float()
    return {f"{GRADIENT}|rank": in_rows(partial(_ranks, subject, end.dtype), subject.model, ids, down)}


@torch.no_grad()
def _ranks(subject: Any, dtype: torch.dtype, ids: Tensor, down: Float[Tensor, "b state d"]) -> Tensor:
    size = down.square().mean(-1, keepdim=True).sqrt()
    unit = (down / size.clamp_min(1e-30)).to(dtype)  # gradients are small: the norm's own constant would swallow them
    ranks = []
    for x in unit.unbind(1):
        said = subject.unembed(subject.norm(x)).float()
        ranks.append(torch.stack([metrics.answer_rank(said, one) for one in ids.unbind(1)], 1))
    return torch.stack(ranks, 1).float()
