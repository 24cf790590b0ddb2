"""The token grid of a prompt under any lens: what every state says at every position, and how its prediction moves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.tokens import labels
from ...probes.model.head import in_rows
from ...probes.observe.capture import capture
from ...probes.prompts.batch import Batch
from ...probes.runs import lens_store
from .. import metrics
from ._jacobian import WHAT, Fitting, fit_jacobians, open_jacobian
from ._jacobian import logits as moved_logits
from ._learned_tables import LENSES
from ._learning import Training, learn, lens_names
from ._lens_logits import state_logits, unembedded
from ._published_lens import is_published, load_tuned_lens

TUNED, MOVED = "tuned", "jacobian"
MEASURES = {
    "entropy": "nats",
    "KL to the output": "nats",
    "probability of the likeliest": "probability",
    "surprise at the next token": "nats",
}


class Lens(NamedTuple):
    """kind: in words. logits: of one state's number and the states [n, d]."""

    kind: str
    logits: Callable[[int, Tensor], Tensor]


def open_any(subject: Any, asked: str) -> Lens:
    """The logit lens where nothing is asked for; "tuned" and "jacobian": those that `learned_lenses` and
    `jacobian_lens` learn by default, learned where they are not there yet; or a learned lens by its name, or a
    published one by its directory. UserError: a lens without maps of states, or as `lens_store.read`.
    """
    if not asked:
        return Lens(LENSES[0], lambda state, x: unembedded(subject, x))
    name = _name_of(subject, asked)
    if lens_store.kind_at(name) == WHAT:
        return Lens(WHAT, lambda state, x: moved_logits(subject, open_jacobian(subject, name, state), x))
    if not lens_names(lens_store.record_of(name), "tuned"):
        raise UserError(f"lens {name} has no maps of states, only of heads: name another one, or tuned")
    return Lens(LENSES[1], lambda state, x: state_logits(subject, LENSES[1], state, x, name))


def _name_of(subject: Any, asked: str) -> str:
    if asked == TUNED:
        return learn(subject, Training(layers="none"))
    if asked == MOVED:
        return fit_jacobians(subject, Fitting())
    return load_tuned_lens(subject, asked) if is_published(asked) else asked


@torch.no_grad()
def grids(subject: Any, batch: Batch, asked: str) -> dict[str, pd.DataFrame]:
    """grid: example state position token top probability value lens; trajectories: the same cells by measure.

    The last state is the model's own prediction.
    """
    lens, made = open_any(subject, asked), []
    for index, example in enumerate(batch.example_ids):
        places = batch.mask[index].nonzero()[:, 0]
        one = {name: value[index : index + 1] for name, value in batch.inputs.items()}
        last = f"blocks.{subject.n_layers - 1}.hook_resid_post"
        kept = capture(subject, one, [last, "resid_pre"])
        names = [*(f"blocks.{i}.hook_resid_pre" for i in range(subject.n_layers)), last]
        states = [kept[name][0, places] for name in names]
        ids = one["input_ids"][0, places].to(states[0].device)
        for state, x in enumerate(states):
            said = in_rows(partial(_said, subject, lens, state), subject.model, x, states[-1], ids.roll(-1))
            cells = {"state": state, "position": range(len(ids)), "token": labels(batch.tokenizer, ids)}
            made.append(pd.DataFrame(cells | _columns(batch, said)).assign(example=example, lens=lens.kind))
    cells = pd.concat(made, ignore_index=True)
    ends = cells.groupby("example")["position"].transform("max") == cells["position"]
    cells.loc[ends, "surprise at the next token"] = float("nan")  # nothing follows there
    shared = ["example", "state", "position", "token", "lens"]
    trajectories = [
        cells[shared].assign(measure=measure, value=cells[measure], unit=unit) for measure, unit in MEASURES.items()
    ]
    grid = cells[[*shared, "top"]].assign(value=cells["probability of the likeliest"], unit="probability")
    return {"grid": grid, "trajectories": pd.concat(trajectories, ignore_index=True)}


def _columns(batch: Batch, said: dict[str, Tensor]) -> dict[str, Any]:
    tops = {"top": labels(batch.tokenizer, said["top"])}
    return tops | {measure: said[measure].float().cpu().numpy() for measure in MEASURES}


def _said(subject: Any, lens: Lens, state: int, x: Tensor, last: Tensor, following: Tensor) -> dict[str, Tensor]:
    """What a lens says of some positions. last: their last states; following: the tokens behind them."""
    logits, own = lens.logits(state, x).float(), subject.unembed(subject.norm(last)).float()
    logs = logits.log_softmax(-1)
    likeliest, top = logs.max(-1)
    values = (
        metrics.entropy(logits),
        metrics.kl_divergence(own, logits),
        likeliest.exp(),
        -logs.gather(-1, following[:, None])[:, 0],
    )
    return {"top": top, **dict(zip(MEASURES, values, strict=True))}
