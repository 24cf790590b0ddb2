"""Information flow: which edges of attention carry the answer, layer by layer.

Attention knockout in windows of layers (arXiv 2411.18620) with its controls, the answer's probability by layer, and on
text causal tracing (arXiv 2202.05262). Tables: flows, stages, valid, answer, trace, sites, accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...probes.intervene.readout import clean_values
from ...probes.intervene.recording import record
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ._flow_claims import CLAIMS, claims
from ._flow_findings import findings
from ._flow_rows import BUCKETS, NORMS, READ, by_state, flow_rows, reading_of, record_twins, right_answers, traced_rows
from ._flow_tables import TABLES
from ._flows import flows_of

__all__ = ["CLAIMS", "TABLES", "claims", "findings"]

VERSION = 3
QUESTION = "Through which edges of attention, and in which layers, does the answer reach the last position?"
PAPER = "arXiv 2411.18620 (attention knockout); arXiv 2202.05262 (causal tracing)"


@dataclass(frozen=True)
class Options:
    """window: layers whose edges are cut together. draws: random controls of each drawn kind.

    stride: drawn controls are measured at every stride-th window, causal tracing at every stride-th state.
    trace: causal tracing, on text tasks with twins. subset: the meta column that examples are split by ("" for none).
    """

    window: int = 7
    draws: int = 20
    stride: int = 3
    trace: bool = True
    subset: str = "kind"


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Attention from the target's rows to the source's columns is removed before the softmax in all heads of "
        f"{options.window} consecutive layers (fewer at the ends) around each layer; the value is the change in the "
        "probability of the first token of the model's own answer, over examples that it answers correctly (its greedy "
        "answer equals the task's, but for case and space): the mean over examples of each one's change in per cent of "
        "its own probability, and beside it the sum of changes as a share of the sum of probabilities. Controls: the "
        "same edges kept but reading the keys and values of the example's twin, another input of the same layout "
        f"(resampled); as many random other positions or patches from the same targets, mean of {options.draws} draws, "
        f"at one window in {options.stride}, never the first token; where a flow has no such control, too few other "
        "positions exist. Valid mass: probability on the task's options; valid accuracy: the answer first among them. "
        "Answer by state: the residual at the last position through the unembedding, with and without the final norm "
        "(the paper leaves it out in middle layers; the last state has it in both). Causal tracing puts one state of "
        "the clean run at one position "
        "into the twin's run."
    )


@torch.no_grad()
def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "flow|<flow>|<control>" [b, layers, 4], "clean" [b, 4], "own" [b], "answer|<norm>" [b, states],
    "trace|<bucket>" [b, states], "trace|clean" and "trace|corrupt" [b]; where not all layers have heads also "attends"
    [b, layers], which do.
    """
    base, twins = record(subject, batch), record_twins(subject, batch)
    own = base.logits.argmax(-1).cpu()
    read, options_given = reading_of(batch, own), batch.options
    found = {
        "clean": clean_values(base, read),
        "correct": right_answers(subject, batch, own),
        "guess": 1.0 / options_given.sum(1).float(),
    }
    for flow in flows_of(batch, how.options.draws):
        found |= flow_rows(subject, base, twins, batch, flow, read, how.options)
    if len(attending := subject.decoder.attending) < subject.n_layers:
        found["attends"] = torch.tensor([i in attending for i in range(subject.n_layers)]).repeat(len(own), 1)
    for norm in NORMS:
        found[f"answer|{norm}"] = by_state(subject, base, own, norm)
    if how.options.trace and twins is not None and not bool(batch.where("image").any()):
        found |= traced_rows(subject, base, twins, batch, how.options)
    return {name: value.float().cpu() for name, value in found.items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    flows, controls = 7, 3
    return subject.n_layers * (flows * controls * len(READ) + 2 + len(BUCKETS)) + 10


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded; windows with their draws, or the logits of all of them; or
    what every state says.
    """
    count = subject.n_layers * max(1, options.draws // options.stride)
    swept = costs.variants(subject, count, batch, positions, positions)
    read = costs.read_logits(subject, count, batch)
    states = costs.logits(subject, batch * (subject.n_layers + 1), 1)
    return 2 * costs.recording(subject, batch, positions) + max(swept, read, states)
