"""Which edges belong to the circuit of each size: one small number an edge, as a record can keep it."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.edge_graph import Reader, Writer, edge_owners, every_reader, every_writer, possible_edges
from ...probes.intervene.recording import Recording
from .. import metrics

SHARES = metrics.MIB_SHARES
NEVER = 255  # the level of what is in no circuit
LEVELS, CHOICES = ("edge", "node", "neuron"), ("top", "greedy")
HELP, SIZE = "most helpful first", "largest |effect| first"
RANKINGS = (HELP, SIZE)
Choose = Callable[[int], Bool[Tensor, "reader writer"]]


class Graph(NamedTuple):
    """The readers and writers of a model, which edges there are, and what a reader is part of."""

    readers: list[Reader]
    writers: list[Writer]
    possible: Bool[Tensor, "reader writer"]
    owners: Bool[Tensor, "reader writer"]


def graph_of(base: Recording) -> Graph:
    return Graph(list(every_reader(base)), list(every_writer(base)), possible_edges(base), edge_owners(base))


def shape_of(graph: Graph, level: str, width: int) -> tuple[int, int]:
    """Of what is kept or lost: readers, or at "neuron" the residual's coordinates, by writers."""
    return (width if level == "neuron" else len(graph.readers), len(graph.writers))


def levels_of(
    effects: Float[Tensor, "reader writer"], graph: Graph, ranking: str, level: str, choice: str
) -> Int[Tensor, "reader writer"]:
    """By edge the first of SHARES whose pruned circuit has it, NEVER for none: circuits grow.

    effects: what losing an edge is estimated to do to the measure, NaN where there is none; the most helpful ones are
    the most negative. level: "edge", "node" for all edges of a writer together, or "neuron", where effects are [unit,
    writer] and nothing is pruned. Counts are MIB's, int(share · all).
    """
    absolute = ranking == SIZE
    chosen: Choose
    if level == "neuron":
        return _top_levels(effects.abs() if absolute else -effects)
    if level == "node":
        scores = -effects.nansum(0)
        whole, chosen = len(scores), partial(metrics.top_nodes, scores, graph.possible, graph.owners, absolute=absolute)
    else:
        pick = metrics.top_edges if choice == "top" else metrics.greedy_edges
        whole, chosen = int(graph.possible.sum()), partial(pick, -effects, graph.owners, absolute=absolute)
    levels = torch.full(graph.possible.shape, NEVER, dtype=torch.uint8)
    for place in reversed(range(len(SHARES))):
        levels[chosen(int(SHARES[place] * whole))] = place
    return levels


def _top_levels(scores: Float[Tensor, "unit writer"]) -> Int[Tensor, "unit writer"]:
    order = scores.flatten().argsort(descending=True, stable=True)
    levels = torch.full((scores.numel(),), NEVER, dtype=torch.uint8)
    for place in reversed(range(len(SHARES))):
        levels[order[: int(SHARES[place] * scores.numel())]] = place
    return levels.reshape(scores.shape)


def random_levels(levels: Int[Tensor, "reader writer"], graph: Graph, level: str, draw: int) -> Tensor:
    """The control of a circuit: `shuffled_levels`; of neurons as many random ones of each writer."""
    if level != "neuron":
        return shuffled_levels(levels, graph, draw)
    return torch.from_numpy(np.random.default_rng(draw).permuted(levels.numpy(), axis=0))


def shuffled_levels(levels: Int[Tensor, "reader writer"], graph: Graph, draw: int) -> Int[Tensor, "reader writer"]:
    """The same number of edges in every circuit between the same two layers and into the same kind of reader, drawn at
    random: what is left of a circuit when only its depth is kept. Not pruned: no edge of a drawn circuit is lost.
    """
    rng = np.random.default_rng(draw)
    into = np.unique(
        [(r.layer, "qkv mixer mlp final".index(r.kind)) for r in graph.readers], axis=0, return_inverse=True
    )
    of = np.unique([(w.layer, w.kind == "mlp") for w in graph.writers], axis=0, return_inverse=True)
    block = into[1].reshape(-1, 1) * (of[1].max() + 1) + of[1].reshape(1, -1)
    mixed, there = levels.numpy().copy(), graph.possible.numpy()
    for one in np.unique(block[there]):
        cells = there & (block == one)
        mixed[cells] = rng.permutation(mixed[cells])
    return torch.from_numpy(mixed)


def circuits_of(levels: Int[Tensor, "reader writer"]) -> list[Bool[Tensor, "reader writer"]]:
    """The circuits of all sizes but the whole."""
    return [levels <= place for place in range(len(SHARES) - 1)]


def pack(levels: Int[Tensor, "reader writer"]) -> str:
    return b64encode(zlib.compress(levels.numpy().tobytes(), 9)).decode("ascii")


def unpack(text: str, shape: Sequence[int]) -> Int[Tensor, "reader writer"]:
    """UserError: a circuit of a graph of another shape."""
    flat = np.frombuffer(zlib.decompress(b64decode(text)), np.uint8)
    if flat.size != int(np.prod(shape)):
        raise UserError(f"edge_circuits: a circuit of {flat.size} pairs of reader and writer, the model has {shape}")
    return torch.from_numpy(flat.reshape(tuple(shape)).copy())
