"""Edges: which head speaks to which; estimated for every edge, exact into the output and the movers' queries.

An edge is the direct path from a writer (head, MLP, embeddings) to a reader's own input, everything between frozen. The
estimate of an edge is the writer's change times the gradient there; the exact effect patches the path. The strongest
edges, and the movers, are chosen on held-out examples of one half of the groups and measured on the other, so that no
interval is of a winner's luck.

Tables: task, edges, into, agreement, tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.progress import tracked
from ...probes.intervene.edge_attribution import Edges, edge_attribution
from ...probes.intervene.edge_graph import Reader, every_reader, every_writer
from ...probes.intervene.paths import FINAL, Receiver, path_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.agreement import ESTIMATES, FIVE
from ..common.asked import require_counts, require_heads
from ..common.claims import Claim, Statement
from ..common.contrast import PARTS, contrast, task_rows
from ..common.selection import chosen_half
from ..common.tested import judged
from ._edge_findings import findings
from ._edge_methods import methods
from ._edge_names import AGAIN_BAR, EXACT, RANKS_BAR, edge_name, reader_name, receivers_of
from ._edge_tables import TABLES
from ._movers import movers

__all__ = ["TABLES", "claims", "findings", "methods"]

VERSION = 3
QUESTION = "Which heads speak to which, and do gradients tell?"
PAPER = "arXiv 2310.10348 (edge attribution patching), 2403.17806 (with integrated gradients), 2211.00593 (exact paths)"
FIT_EXAMPLES = 32
_AT_ONCE = 2**29  # bytes of the recordings of prompts and twins that are alive at once

CLAIMS = (
    Statement(
        "ranks",
        "One gradient ranks the heads that write to the output: Spearman with exact paths above 0.8.",
        "arXiv 2310.10348",
        RANKS_BAR,
    ),
    Statement(
        "gradients",
        "Integrated gradients agree with exact paths to the output better than one gradient does.",
        "arXiv 2403.17806",
    ),
    Statement(
        "again",
        "The strongest edges are strong in other groups: turned to the side on which they were chosen, they have more "
        "than half of the summed |effect| that they had there.",
        "this project's bar",
        AGAIN_BAR,
    ),
)


@dataclass(frozen=True)
class Options:
    """movers: how many heads count as movers. strongest: how many edges are measured. heads: the movers, (layer, head),
    and edges: names as in the table, both found on held-out examples where None.
    """

    movers: int = 3
    strongest: int = 40
    heads: tuple[tuple[int, int], ...] | None = None
    edges: tuple[str, ...] | None = None


class Learned(NamedTuple):
    """heads: the movers; edges: names as in the table; strengths: what the edges were chosen by, in logits;
    selected_on: the groups of the examples that chose. The last two are empty where nothing was chosen.
    """

    heads: Sequence[Sequence[int]] = ()
    edges: Sequence[str] = ()
    strengths: Sequence[float] = ()
    selected_on: Sequence[str] = ()


RETIRED = {"strengths": (), "selected_on": ()}


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The movers as `circuits` finds them, and the strongest edges by five steps, on held-out examples of one half."""
    _require(subject, options)
    heads, edges = options.heads, options.edges
    if heads is not None and edges is not None:
        return Learned([list(head) for head in heads], list(edges))
    half, groups = chosen_half(subject, batches, "edges")
    half = [part for batch in half for part in _parts(subject, batch)]
    heads = movers(subject, half, options.movers) if heads is None else heads
    names, strengths = _strongest(subject, half, options.strongest) if edges is None else (list(edges), [])
    return Learned([list(head) for head in heads], names, strengths, groups)


def _require(subject: Any, options: Options) -> None:
    require_counts("edges", options, movers=0, strongest=1)
    require_heads("edges.heads", options.heads or (), subject)


def _strongest(subject: Any, batches: Sequence[Batch], count: int) -> tuple[list[str], list[float]]:
    """The names and estimated effects of the strongest edges by five steps."""
    asked = [_by_five_steps(subject, batch) for batch in tracked(batches, "the strongest edges of held-out examples")]
    mean = torch.cat([edges.values for edges in asked], -1).mean(-1)
    size = mean.abs().nan_to_num(-1.0).flatten()  # NaN: the writer does not come before the reader
    places = size.topk(min(count, int((size > 0).sum()))).indices
    readers, writers = asked[0].readers, asked[0].writers
    names = [edge_name(writers[i % len(writers)], readers[i // len(writers)]) for i in places.tolist()]
    return names, mean.flatten()[places].tolist()


def _by_five_steps(subject: Any, batch: Batch) -> Edges:
    found = contrast(subject, batch)
    return edge_attribution(subject, found.base, found.donor, measure=found.measure, steps=ESTIMATES[FIVE])


def _parts(subject: Any, batch: Batch) -> list[Batch]:
    """The batch in parts whose recordings fit into _AT_ONCE, of both twins: residual, z, MLP, keys and values."""
    numbers = 2 * 5 * subject.n_layers * subject.d_model * batch.mask.shape[1]
    step = max(1, _AT_ONCE // (numbers * torch.finfo(subject.dtype).bits // 8))
    if step >= len(batch.examples):
        return [batch]
    examples = list(batch.examples)
    return [subject.batch(examples[at : at + step], **batch.form) for at in range(0, len(examples), step)]


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """The chosen edges by each estimate [b, edge]; into each receiver, of every head, [b, layer, head]."""
    rows = [_measured(subject, part, how) for part in _parts(subject, batch)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _measured(subject: Any, batch: Batch, how: How) -> dict[str, Tensor]:
    found = contrast(subject, batch)
    last, both = found.base.final, {"measure": found.measure}
    chosen = how.learned.edges
    names = {edge.rpartition(" → ")[2] for edge in chosen}
    readers = [reader for reader in every_reader(found.base) if reader_name(reader) in names]
    known = {edge_name(writer, reader) for reader in readers for writer in every_writer(found.base)}
    if unknown := [edge for edge in chosen if edge not in known]:
        raise UserError(f"edges: no edge {unknown[0]!r} in {subject.name}; write it as in the table: 3.1 → q of 5.2")
    receivers = receivers_of(how.learned.heads, subject.decoder.attending[0])
    asked = {receiver: _reader(heard, subject) for receiver, heard in receivers.items()}
    kept = task_rows(found)
    for name, steps in ESTIMATES.items():
        named = _named(edge_attribution(subject, found.base, found.donor, **both, steps=steps, readers=readers))
        kept[f"edges|{name}"] = torch.stack([named[edge] for edge in chosen], -1)
        edges = edge_attribution(
            subject, found.base, found.donor, **both, steps=steps, readers=set(asked.values()), positions=last
        )
        kept |= {f"{receiver}|{name}": _from_heads(edges, reader, subject) for receiver, reader in asked.items()}
    for receiver, heard in receivers.items():
        into = FINAL if heard is None else [heard]
        sweep = path_sweep(subject, found.base, found.donor, into, **both, positions=last, mlps="frozen")
        kept[f"{receiver}|{EXACT}"] = sweep.effects
    return kept


def _reader(receiver: Receiver | None, subject: Any) -> Reader:
    return Reader("final", subject.n_layers, -1) if receiver is None else Reader("q", receiver.layer, receiver.head)


def _named(edges: Edges) -> dict[str, Tensor]:
    """Every edge's values [b] by its name."""
    pairs = product(enumerate(edges.readers), enumerate(edges.writers))
    return {edge_name(writer, reader): edges.values[i, j] for (i, reader), (j, writer) in pairs}


def _from_heads(edges: Edges, reader: Reader, subject: Any) -> Tensor:
    """What a reader hears from every head, [b, layer, head], NaN from those that do not come before it, or are none."""
    heads = [j for j, writer in enumerate(edges.writers) if writer.kind == "head"]
    values = edges.values[edges.readers.index(reader)][heads]
    found = values.new_full((values.shape[1], subject.n_layers, subject.n_heads), torch.nan)
    found[:, subject.decoder.attending] = values.T.unflatten(1, (-1, subject.n_heads))
    return found


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 3 * (1 + options.movers) * subject.n_layers * subject.n_heads + 2 * options.strongest + 5


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded, a graph with all of its layers, and every edge's value."""
    n, heads = subject.n_layers, subject.n_heads
    edges = 4 * batch * (n * (3 * heads + 1) + 1) * (n * (heads + 1) + 1)
    recordings = 2 * costs.recording(subject, batch, positions, PARTS.values())
    return recordings + 2 * costs.gradient(subject, batch, positions) + edges


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of edge attribution, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
