"""Patchscope: a state put into another prompt, so that the model itself says what it holds

What enters each layer at the end of a prompt takes the place of the last token's state in a prompt that repeats tokens,
in the same layer; the model's next token is read. Tables: named, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.plan import first_condition
from ...probes.runs.results import How
from ..common.claims import Claim
from ..common.frames import held_out
from ..common.tested import judged
from ._patchscope_findings import findings
from ._patchscope_rows import prompts_of, read_patched, require_text
from ._patchscope_tables import CLAIMS, KINDS, TABLES

__all__ = ["CLAIMS", "TABLES", "findings"]

VERSION = 1
QUESTION = "Can the model itself say what a state holds, if it is put into a prompt that asks for it?"
PAPER = "Patchscopes, arXiv 2401.06102, token identity, -style"
FIT_EXAMPLES = 8


@dataclass(frozen=True)
class Options:
    """target: the prompt that states are put into, at its last token."""

    target: str = "cat -> cat\n1135 -> 1135\nhello -> hello\n?"


class Learned(NamedTuple):
    """others: the tokens of held-out prompts, whose states are the control."""

    others: Sequence[Sequence[int]] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "What enters each layer at the last position of a prompt is put in the place of the last token's state of "
        f"{options.target!r}, in the same layer, and the model goes on from there; asked is whether its next token is "
        "the one that it says behind the prompt itself. Beside it the logit lens of the same states. Controls: the "
        f"states of another prompt ({held_out(fitted_on)}), and a random direction of the state's norm."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Held-out prompts of the first condition. UserError: no target, prompts with images."""
    if not options.target.strip():
        raise UserError("--patchscope.target is empty: name the prompt that states are put into")
    return Learned(prompts_of(first_condition(batches), FIT_EXAMPLES))


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """The states at the last real position, [b, d] each."""
    rows = torch.arange(len(batch.last), device=layer.resid_pre.device)
    last = batch.last.to(rows.device)
    return {"resid": layer.resid_pre[rows, last], "post": layer.resid_post[rows, last]}


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: see `read_patched`. UserError: prompts with images, or no held-out prompt."""
    require_text(batch)
    if not how.learned.others:
        raise UserError("patchscope: the task has no prompt to spare, and the control is the state of another one")
    return read_patched(subject, batch, kept["resid"], kept["post"][:, -1], how)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 2 * len(KINDS) * subject.n_layers


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: a recording of the target for each example, and variants of its last token."""
    target = len(subject.tokenizer(options.target)["input_ids"]) + 1
    variants = costs.variants(subject, 3 * subject.n_layers, batch, 1, target)
    return costs.recording(subject, batch, target, ("resid_pre",)) + variants + costs.logits(subject, batch, 4)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
