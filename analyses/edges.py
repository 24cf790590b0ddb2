"""Edges: which head speaks to which; estimated for every edge, exact into the output and the movers' queries.

An edge is the direct path from a writer (head, MLP, embeddings) to a reader's own input, everything between frozen. The
estimate of an edge is the writer's change times the gradient there; the exact effect patches the path. The strongest
edges are chosen on held-out examples and measured on the others, so that no interval is of a winner's luck.

Tables: edges, into, agreement; see `tables`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.example import UserError
from ..probes.attribution import Edges, Reader, Writer, edge_attribution, every_reader, every_writer
from ..probes.batch import Batch
from ..probes.paths import FINAL, Receiver, path_sweep
from ..probes.plan import first_condition
from ..probes.rows import Rows
from . import circuits
from .agreement import ESTIMATES, agreement_table
from .claims import Claim, interval, verdict
from .contrast import Contrast, contrast
from .frames import by_condition, head_axes, held_out, order_columns, summarise

VERSION = 1
QUESTION = "Which heads speak to which, and do gradients tell?"
PAPER = "arXiv 2310.10348 (edge attribution patching), 2403.17806 (with integrated gradients), 2211.00593 (exact paths)"
FIT_EXAMPLES = 32
EXACT = "path patched"
OUTPUT = "the output"


@dataclass(frozen=True)
class Options:
    """movers: how many heads count as movers. strongest: how many edges are measured. heads: the movers, (layer, head),
    and edges: names as in the table, both found on held-out examples where None.
    """

    movers: int = 3
    strongest: int = 40
    heads: tuple[tuple[int, int], ...] | None = None
    edges: tuple[str, ...] | None = None


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Logit difference: answer minus the answer of the corrupt twin. Estimate of an edge: what its writer adds to "
        "the residual stream in the twin's run and not in the clean one, times the gradient at the reader's own input "
        "(before its norm), summed over positions; 1 step takes the gradient at the clean run, 5 steps its mean on the "
        f"way to the twin's embeddings. The {len(options.edges or ())} strongest were chosen by 5 steps on "
        f"{held_out(fitted_on)}. Exact effects, patched minus clean: the path from each head to the output, "
        f"and to the queries of the movers ({circuits.listed(options.heads)}) at the last position, all other heads "
        "and all MLPs frozen to the clean run."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> dict[str, Any]:
    """The movers as `circuits` finds them, and the strongest edges by five steps, on held-out examples."""
    heads, edges = options.heads, options.edges
    if heads is None or edges is None:
        mine = first_condition(batches)
        heads = circuits.movers(subject, mine, options.movers) if heads is None else heads
        edges = _strongest(subject, mine, options) if edges is None else edges
    return {"heads": [list(head) for head in heads], "edges": list(edges)}


def _strongest(subject: Any, batches: Sequence[Batch], options: Options) -> list[str]:
    """The names of the strongest edges by five steps, mean over the examples of all batches."""
    estimates = [_estimated(subject, contrast(subject, batch)) for batch in batches]
    estimated, mean = estimates[0], torch.cat([e.values for e in estimates], -1).mean(-1).nan_to_num()
    count = min(options.strongest, int((mean != 0).sum()))
    places = mean.abs().flatten().topk(count).indices.tolist()
    return [edge_name(estimated.writers[i % mean.shape[1]], estimated.readers[i // mean.shape[1]]) for i in places]


def _estimated(subject: Any, found: Contrast) -> Any:
    return edge_attribution(subject, found.base, found.donor, measure=found.measure, steps=ESTIMATES["5 steps"])


def edge_name(writer: Writer, reader: Reader) -> str:
    """ "3.1 → q of 5.2", "embeddings → MLP 0", "MLP 4 → k of 7.1" (a key's or value's head counts KV heads)."""
    places = {"embed": "embeddings", "mlp": f"MLP {writer.layer}", "head": f"{writer.layer}.{writer.head}"}
    return f"{places[writer.kind]} → {reader_name(reader)}"


def reader_name(reader: Reader) -> str:
    into = {"mlp": f"MLP {reader.layer}", "final": OUTPUT}
    return into.get(reader.kind, f"{reader.kind} of {reader.layer}.{reader.head}")


def rows(subject: Any, batch: Batch, options: Options) -> dict[str, Tensor]:
    """The chosen edges by each estimate [b, edge]; into each receiver, of every head, [b, layer, head]."""
    found = contrast(subject, batch)
    last, both = found.base.final, {"measure": found.measure}
    chosen = options.edges or ()
    names = {edge.rpartition(" → ")[2] for edge in chosen}
    readers = [reader for reader in every_reader(found.base) if reader_name(reader) in names]
    known = {edge_name(writer, reader) for reader in readers for writer in every_writer(found.base)}
    if unknown := [edge for edge in chosen if edge not in known]:
        raise UserError(f"edges: no edge {unknown[0]!r} in {subject.name}; write it as in the table: 3.1 → q of 5.2")
    receivers = receivers_of(options)
    asked = {receiver: _reader(heard, subject) for receiver, heard in receivers.items()}
    kept = {}
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


def receivers_of(options: Options) -> dict[str, Receiver | None]:
    """What is patched exactly: the output (None), and the queries of the movers that have layers before them."""
    return {OUTPUT: None} | {f"q of {mover.layer}.{mover.head}": mover for mover in circuits.queries_of(options.heads)}


def _reader(receiver: Receiver | None, subject: Any) -> Reader:
    return Reader("final", subject.n_layers, -1) if receiver is None else Reader("q", receiver.layer, receiver.head)


def _named(edges: Edges) -> dict[str, Tensor]:
    """Every edge's values [b] by its name."""
    pairs = product(enumerate(edges.readers), enumerate(edges.writers))
    return {edge_name(writer, reader): edges.values[i, j] for (i, reader), (j, writer) in pairs}


def _from_heads(edges: Edges, reader: Reader, subject: Any) -> Tensor:
    """What a reader hears from every head, [b, layer, head], 0 from those that do not come before it."""
    heads = [j for j, writer in enumerate(edges.writers) if writer.kind == "head"]
    values = edges.values[edges.readers.index(reader)][heads].nan_to_num()
    return values.T.unflatten(1, (subject.n_layers, subject.n_heads))


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    return 3 * (1 + options.movers) * subject.n_layers * subject.n_heads + 2 * options.strongest


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """edges: rank edge measure (the estimate) value …. into: receiver measure ("path patched" or the estimate) layer
    head value …, of the heads before the receiver. agreement: receiver estimate measure value ….
    """
    found = by_condition(rows, {"edges": _edges, "into": _into, "agreement": _agreement}, options)
    return {name: order_columns(table) for name, table in found.items()}


def _edges(rows: Rows, options: Options) -> pd.DataFrame:
    names = list(options.edges or ())
    frames = [
        summarise(rows[f"edges|{name}"], rows.examples["group"], {"edge": names}, "logits", measure=name)
        for name in ESTIMATES
    ]
    rank = {edge: i for i, edge in enumerate(names, 1)}
    return pd.concat([frame.assign(rank=frame["edge"].map(rank)) for frame in frames], ignore_index=True)


def _before(rows: Rows, options: Options) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Receiver by receiver, the maps [n, layer, head] of the heads before it."""
    for receiver, heard in receivers_of(options).items():
        layers = None if heard is None else heard.layer
        yield receiver, {name: rows[f"{receiver}|{name}"][:, :layers] for name in (EXACT, *ESTIMATES)}


def _into(rows: Rows, options: Options) -> pd.DataFrame:
    frames = []
    for receiver, maps in _before(rows, options):
        for name, values in maps.items():
            names: dict[str, Any] = {"receiver": receiver, "measure": name}
            frames.append(summarise(values, rows.examples["group"], head_axes(values), "logits", **names))
    return pd.concat(frames, ignore_index=True)


def _agreement(rows: Rows, options: Options) -> pd.DataFrame:
    frames = []
    for receiver, maps in _before(rows, options):
        heads = Rows(rows.examples, {f"head|{name}": values for name, values in maps.items()})
        frames.append(agreement_table(heads, EXACT).assign(receiver=receiver))
    return pd.concat(frames, ignore_index=True).drop(columns="part")


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What the papers say of edge attribution; thresholds set before any number was seen."""
    agreement = tables["agreement"]
    agreement = agreement[agreement["condition"] == agreement["condition"].iloc[0]]
    rank = agreement[(agreement["measure"] == "Spearman") & (agreement["receiver"] == OUTPUT)].set_index("estimate")
    one, five = (rank.loc[name] for name in ESTIMATES)
    edges = tables["edges"]
    first = edges["condition"] == edges["condition"].iloc[0]
    chosen = edges[first & (edges["measure"] == "5 steps")]
    sure = int(((chosen["lower"] > 0) | (chosen["upper"] < 0)).sum())
    return [
        Claim(
            "One gradient ranks the heads that write to the output: Spearman with exact paths above 0.8.",
            "arXiv 2310.10348",
            f"{interval(one)}, n = {one['n']}",
            verdict(one["lower"] > 0.8, one["upper"] < 0.8),
        ),
        Claim(
            "Integrated gradients agree with exact paths to the output better than one gradient does.",
            "arXiv 2403.17806",
            f"{interval(five)} with 5 steps, {interval(one)} with 1, n = {five['n']}",
            verdict(five["lower"] > one["upper"], five["upper"] < one["lower"]),
        ),
        Claim(
            "The strongest edges are the same on other examples: nine in ten have an interval without 0.",
            "control",
            f"{sure} of {len(chosen)} edges chosen on held-out examples, n = {chosen['n'].max()}",
            verdict(sure >= 0.9 * len(chosen), sure < 0.9 * len(chosen)),
        ),
    ]
