"""Relations: how alike two models relate the tokens of a text, layer by layer

The divergence of self-relations of queries, keys and values between this model and another one of the same tokenizer,
of any width and depth. Tables: layers, shares, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.model.naming import called
from ...probes.prompts.batch import Batch, one_by_one
from ...probes.runs import costs
from ...probes.runs.plan import first_condition
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.controls import RANDOM_WEIGHTS
from ..common.reference import reference_of
from ..common.tested import judged
from ._relations_findings import findings
from ._relations_rows import KINDS, TEXT, compared, texts_of
from ._relations_tables import TABLES, named

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "In which layers do two models relate the tokens of a text alike, and in which did training part them?"
PAPER = "arXiv 2012.15828 (MiniLMv2)"
FIT_EXAMPLES = 8
CLAIMS = (
    Statement(
        "related models relate alike",
        "A model and the one that it was made from relate tokens alike: the divergence of their relations is below "
        "half of that of the model's own relations on two texts, and below that of random weights in the other's "
        "place.",
        "arXiv 2012.15828 (MiniLMv2), style: what it distils by; the bar and the controls are this project's",
        threshold=0.5,
        side="below",
    ),
    Statement(
        "the upper layers were changed most",
        "What training changed lies in the upper layers: the divergence is larger in the upper half of the layers than "
        "in the lower (difference above 0), and more so than that of random weights and of another text.",
        "this project's bar; arXiv 2012.15828 distils the relations of an upper layer",
    ),
)


@dataclass(frozen=True)
class Options:
    """reference: the model to compare with, any name that --subject takes. heads: relation heads, at most; as many as
    divide the channels of both models are taken.
    """

    reference: str = ""
    heads: int = 12


class Learned(NamedTuple):
    """texts: held-out texts for the control. reference: the fingerprint of the model that is compared with."""

    texts: Sequence[str] = ()
    reference: str = ""


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"The channels of queries, keys or values of all heads (queries and keys before their rotation) are split anew "
        f"into at most {options.heads} relation heads, as many as divide the channels of both models; relations: "
        "softmax(x xᵀ / √d) over all tokens of the text, not causal; KL(other ‖ this model), mean over relation heads "
        f"and tokens, in nats. The other: {called(options.reference)}, its layer at the same relative depth. Controls: "
        f"{RANDOM_WEIGHTS}, a model of the other's configuration as its family initialises it (one draw); {TEXT}, one "
        f"of {len(learned.texts)} held-out texts, the longer of the two cut. Means over examples; intervals resample "
        "groups."
    )


def fit(subject: Any, batches: Sequence[Batch], options: Options) -> Learned:
    """Held-out texts, and which model is compared with. UserError: options, as `reference_of`."""
    _require(options)
    return Learned(
        texts_of(first_condition(batches)), reference_of(subject, options.reference, "relations").fingerprint
    )


def _require(options: Options) -> None:
    if options.heads < 1:
        raise UserError(f"--relations.heads {options.heads}: at least one relation head is needed, 12 by default")


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "relations" and, of the controls, "relations|control" [b, layers, 3 kinds], nats. UserError: as in
    `_relations_rows.compared`.
    """
    _require(how.options)
    reference = reference_of(subject, how.options.reference, "relations")
    texts: Sequence[str] = how.learned.texts if how.learned else ()
    found = [compared(subject, reference, one, texts, how.options.heads) for one in one_by_one(subject, batch)]
    return {named(control): torch.stack([one[control] for one in found]) for control in found[0]}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 3 * subject.n_layers * len(KINDS)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """The other model and its random weights, taken as large as this one; both models' vectors of one example."""
    vectors = 2 * positions * subject.n_layers * (subject.n_heads + 2 * subject.n_kv_heads) * subject.d_head * 4
    return 2 * costs.weights(subject) + vectors + costs.forward(subject, 1, positions)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper says, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
