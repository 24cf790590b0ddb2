"""The Jacobian lens: states moved as later layers move them on average; and what gradients say in words

Read at the last position beside the logit lens and the same maps turned at random; the backward lens reads the
gradient of the answer's loss. Tables: lenses, gradients, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs, lens_store
from ...probes.runs.results import How
from ..common.claims import Claim
from ..common.tested import judged
from ._jacobian import AT_ONCE, WHAT, Fitting, fit_jacobians
from ._jacobian_findings import findings
from ._jacobian_rows import read_gradients, read_states
from ._jacobian_tables import CLAIMS, TABLES, TURNED_AT

__all__ = ["CLAIMS", "TABLES", "findings"]

VERSION = 2
QUESTION = "How early can the answer be read, if a state is moved as the later layers move states on average?"
PAPER = "Jacobian lens, Gurnee et al. 2026, as TransformerLens 4.3 has it; backward lens, arXiv 2402.12865, -style"
FIT_EXAMPLES = 0  # it learns from a corpus of its own


@dataclass(frozen=True)
class Options(Fitting):
    """lens: the name of a Jacobian lens to use instead of fitting one."""

    lens: str = ""


class Learned(NamedTuple):
    """lens: its name; the others: how it was fitted, as in `Fitting`. agreement: cosine of J − 1 of two halves of the
    prompts, state by state; nothing where they could not be halved.
    """

    lens: str = ""
    corpus: str = "passages:split=train"
    passages: int = 16
    length: int = 64
    skip: int = 16
    parts: int = 8
    agreement: Sequence[float] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    agree = learned.agreement
    told = f" Two halves of them agree: cosine {agree[len(agree) // 2]:.2f} in the middle state." if agree else ""
    return (
        f"Jacobian lens {learned.lens}: for each state the mean Jacobian from it to the last state (summed over later "
        f"positions), from {learned.passages} passages of {learned.corpus}, cut to {learned.length} tokens, without "
        f"their first {learned.skip} and their last; each output dimension from {learned.passages // learned.parts} of "
        f"them.{told} Behind it the model's own norm and unembedding, at the last position of each prompt. Control: "
        "the same maps with what they do beyond the identity turned at random, two draws; the wrong answer. Backward: "
        "minus the gradient of −log p(answer) in each state, brought to unit size, through the norm and the "
        "unembedding; the last state, where it names the answer by construction, does not count for the claim. That "
        "the answer is ahead of the wrong one tells the two words of a prompt apart; gradients of other prompts are "
        "not compared."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The lens' name and how it was fitted; fitted here where it is not there yet. UserError: as `fit_jacobians`."""
    asked = Fitting(**{field.name: getattr(options, field.name) for field in fields(Fitting)})
    record = lens_store.record_of(options.lens or fit_jacobians(subject, asked), WHAT)
    return Learned(record["name"], **record["training"], agreement=[round(x, 4) for x in record["agreement"]])


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """The states at the last real position, [b, d] each."""
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    return {"resid": layer.resid_pre[rows, last], "post": layer.resid_post[rows, last]}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: see `read_states` and `read_gradients`. UserError: examples that the lens was fitted on."""
    record = lens_store.record_of(how.learned.lens, WHAT)
    lens_store.require_held_out(record, batch.example_ids, [example.group for example in batch.examples])
    states = torch.cat([kept["resid"], kept["post"][:, -1:]], 1)
    return read_states(subject, how.learned.lens, states, batch) | read_gradients(subject, batch)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 1 + (subject.n_layers + 1) * (4 * (2 + len(TURNED_AT)) + 2)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: a batch's gradients, or what fitting holds: copies of a prompt, all matrices."""
    measured = costs.gradient(subject, batch, positions) + costs.logits(subject, batch, 6)
    if options.lens:
        return measured
    return max(measured, costs.gradient(subject, AT_ONCE, options.length) + 3 * disk(subject, options))


def disk(subject: Any, options: Options) -> int:
    """Bytes of the lens in the cache."""
    return 0 if options.lens else 4 * subject.n_layers * subject.d_model**2


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What is said of these lenses, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
