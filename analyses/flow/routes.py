"""Information flow routes: which heads, MLPs and tokens a prediction is made of, followed down from the output

From the last token's state downwards every state is taken apart into what each head read at each token, the MLP and
the residual; parts below a threshold are dropped, and only tokens that something was kept of are followed further.
Tables: layers, heads, agreement, tokens, knockout, edges, tested; for a single prompt (`show`): edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.controls import OTHER_WRITER
from ..common.tested import judged
from ._route_edges import edges_of
from ._route_findings import findings
from ._route_knockout import knocked_rows
from ._route_parts import BUDGET, Place
from ._route_rows import FIELDS, effect_rows, recorded_layers, roles_of, route_rows, strongest_edges
from ._route_tables import TABLES
from ._route_walk import ADDED, walk

__all__ = ["TABLES", "findings"]

VERSION = 2
QUESTION = "Through which heads, MLPs and tokens does a prediction come about?"
PAPER = "information flow routes, arXiv 2403.00824; LM Transparency Tool, arXiv 2404.07004"
CLAIMS = (
    Statement(
        "few edges",
        "Routes are sparse: of all pairs of different tokens that attention could connect, the route of one prediction "
        "keeps fewer than 20 %, and fewer than where heads and MLPs write at random.",
        "arXiv 2403.00824 (a small part of the network is enough), style; bar and control are this project's",
        0.2,
        "below",
    ),
    Statement(
        "routes leave the sink",
        "Importance is not attention: of what routes keep from other tokens, less than half comes from the first "
        "token, and less than its share of the attention of the same rows.",
        "arXiv 2403.00824 (what is read counts, not the weight alone), style; bar and control are this project's",
        0.5,
        "below",
    ),
    Statement(
        "previous-token heads",
        "Heads that look at the token before are important in general: the heads with most importance give it more "
        "than .2 of their attention, and more than random heads of the same layers.",
        "arXiv 2403.00824 (previous-token heads are generally important), style; the bar is this project's",
        0.2,
    ),
    Statement(
        "routes find causal heads",
        "Importance finds heads that matter: those with most of it have more than twice an even share of the effect of "
        "patching heads from the prompt's twin, as a gradient estimates it, and more than random heads of the same "
        "layers or those chosen on the control's routes.",
        "arXiv 2403.00824 (routes agree with patching), style; bar and controls are this project's",
        2.0,
    ),
    Statement(
        "routes agree with knockout",
        "What the last token's route keeps of other tokens is what it needs of them: over layers and kinds of tokens "
        "it goes with the change of the answer where that edge is cut in one layer (rank correlation above .3), and "
        "more than on the control's routes.",
        "this project's bar; knockout as in arXiv 2411.18620, of one layer",
        0.3,
    ),
)


@dataclass(frozen=True)
class Options:
    """threshold: a part is kept where its share is above. share: of all heads, those with most importance are compared
    with what patching finds. edges: strongest ones kept of each prompt. causal: whether heads are patched, by
    gradient, and edges cut.
    seed: of the control's draws.
    """

    threshold: float = 0.04
    share: float = 0.05
    edges: int = 500
    causal: bool = True
    seed: int = 0


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "From the state of the last token behind the last layer, layer by layer downwards: a state y is the sum of "
        "parts, behind the attention what each head writes of each token (its attention times the token's value times "
        "W_O, a norm behind W_O held at its scale), biases and the residual; behind the MLP the MLP's output and the "
        "residual. A part's importance is ‖y‖₁ − ‖y − part‖₁, at least 1e-5, over the sum of all. Parts whose share "
        f"is not above {options.threshold:g} are dropped, each by itself, before heads are summed; the others are "
        "divided by their sum; where none is above, the largest part stays alone. Only tokens that something was kept "
        "of are followed further. Parts that add what is not the state of one token, as biases do, end there. Followed "
        "share of a token: products of the kept shares along all ways down to it, summed. Control: a route "
        f"of its own, in which each layer has {OTHER_WRITER}, one draw a prompt. Heads are chosen by "
        f"importance ({options.share:.0%} of all) on one half of the groups and measured on the other. Effect of a "
        "head: how the answer's logit moves against the wrong one's where it writes what it writes for the prompt's "
        "twin, estimated by a gradient (attribution patching, not the exact patch), its size. "
        "Knockout: the change of the probability of the model's own answer, as a share of it, where the last token "
        "cannot read one kind of tokens in one layer; it goes with what the route keeps there by rank correlation over "
        "layers and kinds, prompt by prompt (0 for a control that keeps nothing)."
    )


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows, of the route and with "|null" of its control: "sums" [b, layers, ADDED], "importance", "previous", "on"
    [b, layers, heads], "flow|<role>" [b, states], "read|<role>" [b, layers]; "tokens|<role>" [b], "edges" [b,
    edges, FIELDS]; "knocked|<role>" [b, layers] and with twins "effect" [b, layers, heads]. One forward for
    the routes; for the effects two and one backward; for the cuts one and replays of the last row.
    """
    _require(how.options)
    rows = route_rows(subject, batch, how.options)
    if not how.options.causal:
        return rows
    return rows | effect_rows(subject, batch) | knocked_rows(subject, batch, roles_of(batch))


def _require(options: Options) -> None:
    for name in ("threshold", "share"):
        if not 0 < getattr(options, name) < 1:
            raise UserError(f"--routes.{name} {getattr(options, name)}: a number between 0 and 1 is needed")
    if options.edges < 1:
        raise UserError(f"--routes.edges {options.edges}: at least 1 is needed")


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    roles = 6
    by_layer = 2 * len(ADDED) + (6 + options.causal) * subject.n_heads + 5 * roles
    return subject.n_layers * by_layer + options.edges * len(FIELDS) + roles


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: all layers of one, one layer's patterns and parts; or the gradient's."""
    per_position = 4 * subject.d_model + 4 * subject.n_heads * subject.d_head
    held = subject.n_layers * batch * positions * per_position * costs.item(subject)
    one = 4 * (4 * subject.n_heads * positions**2 + 4 * max(BUDGET, positions * subject.d_model))
    patched = 2 * costs.recording(subject, batch, positions, ("z",)) + costs.gradient(subject, batch, positions)
    cut = costs.recording(subject, batch, positions) + costs.variants(subject, subject.n_layers, batch, 1, positions)
    return max(held + one, max(patched, cut) if options.causal else 0)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)


@torch.no_grad()
def show(subject: Any, batch: Batch, options: Options) -> dict[str, pd.DataFrame]:
    """The route of single prompts. edges: as in a run."""
    _require(options)
    layers, tables = recorded_layers(subject, batch), []
    for index, example in enumerate(batch.example_ids):
        real = batch.mask[index].nonzero()[:, 0].to(layers[0].resid_pre.device)
        route = walk(subject, layers, Place(index, real), options.threshold)
        kept = strongest_edges(route, batch.inputs["input_ids"][index, real.cpu()], options.edges)
        tables.append(edges_of(kept.numpy(), example, batch.tokenizer))
    return {"edges": pd.concat(tables, ignore_index=True)}
