"""Edges: which head speaks to which; estimated for every edge, exact into the output and the movers' queries.

An edge is the direct path from a writer (head, MLP, embeddings) to a reader's own input, everything between frozen. The
estimate of an edge is the writer's change times the gradient there; the exact effect patches the path. The strongest
edges, and the movers, are chosen on held-out examples of one half of the groups and measured on the other, so that no
interval is of a winner's luck.

Tables: task, edges, into, agreement, tested; see `tables`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.attribution import Edges, Reader, Writer, edge_attribution, every_reader, every_writer
from ...probes.intervene.paths import FINAL, Receiver, path_sweep
from ...probes.prompts.batch import Batch
from ...probes.runs.results import How, Rows
from ..common.agreement import ESTIMATES, FIVE, ONE, RANKS, agreement_table, five_over_one
from ..common.claims import Claim, Statement, one_row
from ..common.contrast import contrast, task_rows, task_table, unsolved
from ..common.frames import head_axes, summarise
from ..common.selection import chosen_half, measured_rows
from ..common.tested import judged, nothing, number
from . import circuits

VERSION = 2
QUESTION = "Which heads speak to which, and do gradients tell?"
PAPER = "arXiv 2310.10348 (edge attribution patching), 2403.17806 (with integrated gradients), 2211.00593 (exact paths)"
FIT_EXAMPLES = 32
EXACT = "path patched"
OUTPUT = "the output"

CLAIMS = (
    Statement(
        "ranks",
        "One gradient ranks the heads that write to the output: Spearman with exact paths above 0.8.",
        "arXiv 2310.10348",
        0.8,
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
        0.5,
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


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Logit difference: answer minus the answer of the corrupt twin. Estimate of an edge: what its writer adds to "
        "the residual stream in the twin's run and not in the clean one, times the gradient at the reader's own input "
        "(before its norm), summed over positions; 1 step takes the gradient at the clean run, 5 steps its mean on the "
        f"way to the twin's embeddings. The {len(learned.edges)} strongest by 5 steps, and the movers, were "
        f"chosen on held-out examples of {len(learned.selected_on)} groups, of {fitted_on['examples']} examples in "
        "all, and are measured on the other groups. Exact effects, patched minus clean: the path from each head to the "
        f"output, and to the queries of the movers ({circuits.listed(learned.heads)}) at the last position, all other "
        "heads and all MLPs frozen to the clean run."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The movers as `circuits` finds them, and the strongest edges by five steps, on held-out examples of one half."""
    heads, edges = options.heads, options.edges
    if heads is not None and edges is not None:
        return Learned([list(head) for head in heads], list(edges))
    half, groups = chosen_half(subject, batches, "edges")
    heads = circuits.movers(subject, half, options.movers) if heads is None else heads
    names, strengths = _strongest(subject, half, options.strongest) if edges is None else (list(edges), [])
    return Learned([list(head) for head in heads], names, strengths, groups)


def _strongest(subject: Any, batches: Sequence[Batch], count: int) -> tuple[list[str], list[float]]:
    """The names and estimated effects of the strongest edges by five steps."""
    found = [contrast(subject, batch) for batch in batches]
    asked = [edge_attribution(subject, f.base, f.donor, measure=f.measure, steps=ESTIMATES[FIVE]) for f in found]
    mean = torch.cat([edges.values for edges in asked], -1).mean(-1)
    size = mean.abs().nan_to_num(-1.0).flatten()  # NaN: the writer does not come before the reader
    places = size.topk(min(count, int((size > 0).sum()))).indices
    readers, writers = asked[0].readers, asked[0].writers
    names = [edge_name(writers[i % len(writers)], readers[i // len(writers)]) for i in places.tolist()]
    return names, mean.flatten()[places].tolist()


def edge_name(writer: Writer, reader: Reader) -> str:
    """ "3.1 → q of 5.2", "embeddings → MLP 0", "MLP 4 → k of 7.1" (a key's or value's head counts KV heads)."""
    places = {"embed": "embeddings", "mlp": f"MLP {writer.layer}", "head": f"{writer.layer}.{writer.head}"}
    return f"{places[writer.kind]} → {reader_name(reader)}"


def reader_name(reader: Reader) -> str:
    into = {"mlp": f"MLP {reader.layer}", "final": OUTPUT}
    return into.get(reader.kind, f"{reader.kind} of {reader.layer}.{reader.head}")


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """The chosen edges by each estimate [b, edge]; into each receiver, of every head, [b, layer, head]."""
    found = contrast(subject, batch)
    last, both = found.base.final, {"measure": found.measure}
    chosen = how.learned.edges
    names = {edge.rpartition(" → ")[2] for edge in chosen}
    readers = [reader for reader in every_reader(found.base) if reader_name(reader) in names]
    known = {edge_name(writer, reader) for reader in readers for writer in every_writer(found.base)}
    if unknown := [edge for edge in chosen if edge not in known]:
        raise UserError(f"edges: no edge {unknown[0]!r} in {subject.name}; write it as in the table: 3.1 → q of 5.2")
    receivers = receivers_of(how.learned.heads)
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


def receivers_of(movers: Sequence[Sequence[int]]) -> dict[str, Receiver | None]:
    """What is patched exactly: the output (None), and the queries of the movers that have layers before them."""
    return {OUTPUT: None} | {f"q of {mover.layer}.{mover.head}": mover for mover in circuits.queries_of(movers)}


def _reader(receiver: Receiver | None, subject: Any) -> Reader:
    return Reader("final", subject.n_layers, -1) if receiver is None else Reader("q", receiver.layer, receiver.head)


def _named(edges: Edges) -> dict[str, Tensor]:
    """Every edge's values [b] by its name."""
    pairs = product(enumerate(edges.readers), enumerate(edges.writers))
    return {edge_name(writer, reader): edges.values[i, j] for (i, reader), (j, writer) in pairs}


def _from_heads(edges: Edges, reader: Reader, subject: Any) -> Tensor:
    """What a reader hears from every head, [b, layer, head], NaN from those that do not come before it."""
    heads = [j for j, writer in enumerate(edges.writers) if writer.kind == "head"]
    values = edges.values[edges.readers.index(reader)][heads]
    return values.T.unflatten(1, (subject.n_layers, subject.n_heads))


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 3 * (1 + options.movers) * subject.n_layers * subject.n_heads + 2 * options.strongest + 5


def _elsewhere(rows: Rows, how: How) -> Rows:
    return measured_rows(rows, how.learned.selected_on, "edges")


def _edges(rows: Rows, how: How) -> pd.DataFrame:
    names, mine = list(how.learned.edges), _elsewhere(rows, how)
    frames = [
        summarise(mine[f"edges|{name}"], mine.examples["group"], {"edge": names}, "logits", measure=name)
        for name in ESTIMATES
    ]
    rank = {edge: i for i, edge in enumerate(names, 1)}
    return pd.concat([frame.assign(rank=frame["edge"].map(rank)) for frame in frames], ignore_index=True)


def _before(rows: Rows, how: How) -> Iterator[tuple[str, Rows]]:
    """Receiver by receiver, the maps "head|…" [n, layer, head] of the heads before it."""
    for receiver, heard in receivers_of(how.learned.heads).items():
        layers = None if heard is None else heard.layer
        mine = rows if heard is None else _elsewhere(rows, how)
        maps = {f"head|{name}": mine[f"{receiver}|{name}"][:, :layers] for name in (EXACT, *ESTIMATES)}
        yield receiver, Rows(mine.examples, maps)


def _into(rows: Rows, how: How) -> pd.DataFrame:
    frames = []
    for receiver, maps in _before(rows, how):
        for name, values in maps.values.items():
            names: dict[str, Any] = {"receiver": receiver, "measure": name.removeprefix("head|")}
            frames.append(summarise(values, maps.examples["group"], head_axes(values), "logits", **names))
    return pd.concat(frames, ignore_index=True)


def _agreement(rows: Rows, how: How) -> pd.DataFrame:
    frames = [_agreeing(maps).assign(receiver=receiver) for receiver, maps in _before(rows, how)]
    return pd.concat(frames, ignore_index=True).drop(columns="part")


def _agreeing(maps: Rows) -> pd.DataFrame:
    table = agreement_table(maps, EXACT)
    assert table is not None  # the estimates are always asked for
    return table


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    reason = unsolved(rows)
    output = next(maps for receiver, maps in _before(rows, how) if receiver == OUTPUT)
    ranks = one_row(_agreeing(output), part="head", estimate=ONE, measure=RANKS)
    assert ranks is not None
    gain = five_over_one(output, EXACT)
    assert gain is not None
    kept = ("value", "lower", "upper", "n", "n_groups", "unit")
    rows_of = {"ranks": {name: ranks[name] for name in kept}, "gradients": gain}
    frame = pd.DataFrame([row | {"claim": name, "than": "", "untestable": reason} for name, row in rows_of.items()])
    return pd.concat([frame, _again(_elsewhere(rows, how), how, reason)], ignore_index=True)


def _again(rows: Rows, how: How, reason: str) -> pd.DataFrame:
    """Σ effect of the chosen edges, each turned to its side, over Σ |effect| where they were chosen."""
    if not how.learned.strengths:
        return nothing("again", reason or "the edges were given, not chosen")
    strengths = np.array(how.learned.strengths)
    turned = (rows[f"edges|{FIVE}"] * np.sign(strengths)).sum(1)
    whole = np.full(len(turned), np.abs(strengths).sum())
    given = {"denominators": whole, "untestable": reason}
    return number("again", turned, rows.examples["group"], "of the effect where they were chosen", **given)


TABLES = {
    "task": (task_table, ("measure",)),
    "edges": (_edges, ("edge", "measure", "rank")),
    "into": (_into, ("receiver", "measure")),
    "agreement": (_agreement, ("estimate", "measure", "receiver")),
    "tested": (_tested, ("claim", "than", "untestable")),
}


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of edge attribution, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
