"""The lens on every module, at image and at text tokens: how sure what attention, MLP and block write is of a word

Entropy of the lens of the attention's output, of the state behind it, of the MLP's output and of the state behind the
block, layer by layer, at image and text tokens, also by kind of question. Tables: entropy, by_label, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._module_findings import findings
from ._module_rows import KINDS, SITES_READ, entropies, places
from ._module_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "Which module turns image and text tokens towards words, and in which layer?"
PAPER = "MMNeuron, arXiv 2406.11193: the lens on modules"
CLAIMS = (
    Statement(
        "image tokens less sure",
        "Image tokens are less sure of a word: behind the blocks of the second half the lens has more entropy at "
        "image tokens than at text tokens (entropy larger by more than 0 nats), and by more than where each module "
        "writes noise of the same norm.",
        "MMNeuron, arXiv 2406.11193, style: a difference of its curves; bar and control are this project's",
    ),
    Statement(
        "MLPs make sure",
        "MLPs turn text tokens towards words: in the second half the lens is surer behind the MLP than before it "
        "(change of entropy below 0 nats), and by more than where the MLP writes noise of the same norm.",
        "MMNeuron, arXiv 2406.11193, style: its stage of the last layers; bar and control are this project's",
        0.0,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """tokens: read of each kind, evenly spaced, in every example. by: the column that examples are split by; by default
    their label, else their kind.
    """

    tokens: int = 6
    by: str = ""


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Read are {options.tokens} evenly spaced image tokens and as many text tokens (without each prompt's first). "
        "What a module writes and the states behind attention and block go through the model's final norm and "
        "unembedding; entropy of the words, mean over an example's tokens. Controls: of a state, the same with noise "
        "in the place of what the module has just added, a random direction of the same norm; of a module's output, a "
        "random direction (the norm takes lengths away). One draw for each example, layer and token."
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor]:
    """See `_module_rows.entropies`."""
    if how.options.tokens < 1:
        raise UserError(f"--module_lens.tokens {how.options.tokens}: at least 1 is needed")
    return entropies(layer, batch, places(batch, how.options.tokens))


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 2 * len(SITES_READ) * len(KINDS) * subject.n_layers


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: the logits of a few tokens at a time."""
    return costs.logits(subject, min(batch * options.tokens, 256), 3)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the paper's curves say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
