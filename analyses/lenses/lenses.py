"""The logit lens: what each layer's state would say if it were the last.

Read at the last real position, of the residual and of what attention and MLP add to it, with and without the final
norm. Tables: lens, accuracy; for a single prompt (`show`): grid, trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...probes.model.head import in_rows
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from .. import metrics
from ..common.claims import Claim, Statement, judge, one_row, unsolved
from ._lens_findings import findings
from ._lens_tables import FALLING, MEASURES, NORM_GAIN, NORMS, READ_BEFORE, SITES, TABLES, Site, sites_of
from ._token_grid import grids

__all__ = ["TABLES", "claims", "findings"]

VERSION = 2
QUESTION = "In which layer does the answer become readable, and which part writes it?"
PAPER = "logit lens (nostalgebraist 2020), with the final norm; arXiv 2411.18620 leaves the norm out in the middle"


@dataclass(frozen=True)
class Options:
    """sites: which states are read, "resid" in any case, since answers are read there. subset: the meta
    column that a task's examples are split by. lens: for `show`, the lens of the grid: the logit lens by default,
    "tuned", "jacobian", a learned lens' name, or a published one's folder.
    """

    sites: tuple[Site, ...] = SITES
    subset: str = "relation"
    lens: str = ""


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "At the last real position of every prompt, each state is turned into logits by the model's own unembedding, "
        "with its final norm (logit lens) and without. Probability and rank (number of tokens above; medians) of the "
        "answer's token, KL of the model's final distribution to the lens, and the lens's entropy. The control is the "
        "wrong answer of the same prompt. For attention and MLP outputs, state s is the state they are added to."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """The states at the last real position, [b, d] each."""
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    kept = {"resid": layer.resid_pre[rows, last], "resid_post": layer.resid_post[rows, last]}
    parts = {"attn_out": lambda: layer.attn_out, "mlp_out": lambda: layer.mlp_out}
    return kept | {name: read()[rows, last] for name, read in parts.items() if name in sites_of(how.options)}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Every kept state through the lens; one state's logits are alive at a time, of a few examples.

    Rows: "<site>|<norm>|<measure>" [b, states] (probability and rank [b, states, 2]: answer, wrong answer), and
    "logit_difference" [b].
    """
    sites, resid = sites_of(how.options), torch.cat([kept["resid"], kept["resid_post"][:, -1:]], 1)
    states = [resid, *(kept[site] for site in sites if site != "resid")]
    ids = torch.stack([batch.answers, batch.wrong], 1)
    return in_rows(partial(_readings, subject, sites), subject.model, ids, *states)


def _readings(subject: Any, sites: Sequence[str], ids: Tensor, resid: Tensor, *others: Tensor) -> dict[str, Tensor]:
    states = {"resid": resid} | dict(zip([site for site in sites if site != "resid"], others, strict=True))
    final = subject.unembed(subject.norm(resid[:, -1].to(subject.device))).float()
    reference, ids = (final.softmax(-1), metrics.entropy(final)), ids.to(final.device)
    rows = {"logit_difference": final.gather(1, ids)[:, 0] - final.gather(1, ids)[:, 1]}
    for site in sites:
        for norm in NORMS:
            read = [_read(subject, state, norm, ids, reference) for state in states[site].unbind(1)]
            rows |= {f"{site}|{norm}|{m}": torch.stack([r[m] for r in read], 1).float() for m in MEASURES}
    return rows


def _read(subject: Any, state: Tensor, norm: str, ids: Tensor, reference: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    chosen = subject.norm if norm == NORMS[0] else None
    logits = metrics.logit_lens(state.to(subject.device), chosen, subject.unembed)
    read = metrics.lens_readings(logits, ids, *reference)
    return read | {"top1": read["rank"] == 0}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 1 + len(sites_of(options)) * len(NORMS) * (len(MEASURES) + 2) * (subject.n_layers + 1)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one state's logits with what is read of them, beside the final ones."""
    return costs.logits(subject, batch, 6)


CLAIMS = (
    Statement(
        "norm matters",
        "The final norm matters: in the second half of the states, KL to the final distribution is lower with it.",
        *("common practice; arXiv 2411.18620 leaves it out", 0.0, "below"),
    ),
    Statement(
        "readable late",
        "The answer becomes readable late: two thirds up, the lens gives it less than half of its final probability.",
        *("arXiv 2411.18620", 0.5, "below"),
    ),
    Statement(
        "refined step by step",
        "Predictions are refined step by step: from the middle on, KL to the final falls in 80 % of a prompt's layers.",
        *("arXiv 2303.08112", 0.8, "above"),
    ),
)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of lenses, of one condition's tables."""
    compared = tables.get("compared")
    rows = [one_row(compared, measure=measure) for measure in (NORM_GAIN, READ_BEFORE, FALLING)]
    solved = unsolved(one_row(tables["accuracy"], measure="pair accuracy − guessing", subset="all"))
    told = ("", solved, "")
    return [judge(s, row, untestable=why) for s, row, why in zip(CLAIMS, rows, told, strict=True)]


def show(subject: Any, batch: Batch, options: Options) -> dict[str, pd.DataFrame]:
    """The token grid of single prompts under `options.lens`, and how its predictions move: see `_token_grid.grids`."""
    return grids(subject, batch, options.lens)
