"""Changed heads: what training changed of a task's circuit, head by head, against the model it began from

The effects of every head on a task of text in this model and in another one of the same shape and tokenizer, on the
same prompts. Tables: task, heads, layers, kept, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.patching import patch_sweep
from ...probes.intervene.paths import path_sweep
from ...probes.model.naming import called
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.contrast import contrast, task_rows
from ..common.reference import reference_of, same_tokens
from ..common.tested import judged
from ._changed_findings import findings
from ._changed_tables import FEW, KEPT, LIKE, MORE, TABLES, other
from ._circuit_tables import DIRECT, EXACT

__all__ = ["TABLES", "claims", "findings"]

VERSION = 2
QUESTION = "Which heads do something else for a task of text since the model was trained on, and which do the same?"
PAPER = "arXiv 2402.14811 (fine-tuning enhances existing mechanisms), in its manner"
FIT_EXAMPLES = 0  # it learns nothing but which model is compared with
CLAIMS = (
    Statement(
        KEPT,
        "After the training the same heads carry the task: over heads, the effects in both models correlate by more "
        f"than {LIKE} (Spearman), and more than with the other heads of each layer in their place.",
        "arXiv 2402.14811, in its manner; bar and control are this project's",
        LIKE,
    ),
    Statement(
        MORE,
        "The training changed what heads do for the task: the change (root mean square over heads) is above a tenth "
        "of the other model's effects, and above what two halves of the examples differ by.",
        "this project's bar",
        0.1,
    ),
    Statement(
        FEW,
        "What it changed lies in few heads: the 5 % that changed most hold more than half of the summed |change| "
        "(heads and signs from one half of the groups, the share from the other), and more than random heads of the "
        "same layers.",
        "this project's bar",
        0.5,
    ),
)


@dataclass(frozen=True)
class Options:
    """reference: the model to compare with, any name that --subject takes: the one that this model was made from."""

    reference: str = ""


class Learned(NamedTuple):
    """reference: the fingerprint of the model that is compared with. selected_on: nothing is chosen beforehand."""

    reference: str = ""
    selected_on: tuple[str, ...] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    beside = called(options.reference) or "the other model"
    return (
        "Logit difference: answer minus the answer of the corrupt twin, at the last position. A head's effect is what "
        "this loses, in logits, where the twin's z stands in the place of its own: at the last position, or on the "
        "path to the output alone with every other head held. Both models get the same prompts; the change is this "
        f"model's effect minus that of {beside}, example by example. Two halves: the same difference between halves of "
        "the groups in the other model; the tested number takes the larger of both models'. p of a head: signs flipped "
        f"by groups, the largest |t| over all heads. Where halves of one model agree by no more than {LIKE} "
        "(Spearman–Brown), two models' maps cannot be held to it."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Which model is compared with. UserError: as `reference_of`, or another number of layers or heads."""
    return Learned(_alike(subject, options.reference).fingerprint)


def _alike(subject: Any, name: str) -> Any:
    reference = reference_of(subject, name, "changed_heads")
    shapes = [(one.n_layers, one.n_heads) for one in (reference, subject)]
    if shapes[0] != shapes[1]:
        theirs, ours = (f"{layers} layers of {heads} heads" for layers, heads in shapes)
        raise UserError(
            f"--changed_heads.reference {reference.name} has {theirs} and this model {ours}: heads are compared one by "
            "one, so take the model that this one was made from"
        )
    return reference


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Effects [b, layer, head] and the task's own numbers [b] of this model, and ("other|") of the other one.

    UserError: an image, which the other model does not see; other tokens; as `fit`.
    """
    if bool(batch.where("image").any()):
        raise UserError(
            "changed_heads compares two models on the same text, and here is an image: take a task of text "
            "(scenes:form=words tells its scenes in words)"
        )
    reference = _alike(subject, how.options.reference)
    theirs = _effects(reference, same_tokens(reference, batch, "changed_heads"))
    return _effects(subject, batch) | {other(name): values for name, values in theirs.items()}


def _effects(subject: Any, batch: Batch) -> dict[str, Tensor]:
    found = contrast(subject, batch, ("z",))
    pair, last = (subject, found.base, found.donor), found.base.final
    exact = patch_sweep(*pair, "z", positions=last, measure=found.measure).effects
    direct = path_sweep(*pair, measure=found.measure).effects
    return task_rows(found) | {f"head|{EXACT}": exact, f"head|{DIRECT}": direct}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 4 * subject.n_layers * subject.n_heads + 10


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """The other model, taken as large as this one; both runs recorded, and all heads in turn."""
    heads = costs.variants(subject, subject.n_layers * subject.n_heads, batch, 1, positions)
    return costs.weights(subject) + 2 * costs.recording(subject, batch, positions, ("z",)) + heads


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What is claimed, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
