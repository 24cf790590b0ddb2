"""Circuits of edges as files that others read: the JSON of EAP-IG and of the MIB circuit track.

{"cfg": {n_layers, n_heads, parallel_attn_mlp, d_model}, "nodes": {name: {"in_graph"}}, "edges": {"a0.h1->m2": {"score",
"in_graph"}, "input->a3.h0<k>": …}}. Their heads each have keys and values of their own; where a model shares them among
query heads, an edge into a shared one stands there once for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...data.errors import UserError
from ..model import anatomy
from .edge_graph import Reader, Writer, every_reader, every_writer, possible_edges, sharing
from .recording import Recording

if TYPE_CHECKING:
    from ..model.subject import Subject


def save_edges(
    path: Path, base: Recording, scores: Float[Tensor, "reader writer"], kept: Bool[Tensor, "reader writer"]
) -> None:
    """Writes the graph of the recorded model. scores: in the order of `every_reader` and `every_writer`, larger is more
    helpful; those of no edge are left out.
    """
    names = dict(_names(base))
    edges = {name: {"score": float(scores[at]), "in_graph": bool(kept[at])} for name, at in names.items()}
    alive = {name.partition("->")[0] for name, one in edges.items() if one["in_graph"]}
    nodes = {_writer(writer): {"in_graph": _writer(writer) in alive} for writer in every_writer(base)}
    whole = {"cfg": _config(base.subject), "nodes": nodes | {"logits": {"in_graph": True}}, "edges": edges}
    path.write_text(json.dumps(whole), "utf-8")


def load_edges(path: Path, base: Recording) -> tuple[Float[Tensor, "reader writer"], Bool[Tensor, "reader writer"]]:
    """(scores, kept) of a file for the recorded model; scores are NaN where there is no edge. Of a shared key or value
    the sum of its query heads' scores; kept where one of them keeps it. UserError: no such file, or another model's.
    """
    found = _read(path)
    wanted = _config(base.subject)
    off = {name: value for name, value in wanted.items() if found["cfg"].get(name) != value}
    if off:
        said = ", ".join(f"{name} {found['cfg'].get(name)}, not {value}" for name, value in off.items())
        raise UserError(f"{path}: a circuit of another model than {base.subject.name}: {said}")
    possible = possible_edges(base)
    scores = torch.zeros(possible.shape).masked_fill(~possible, torch.nan)
    kept = torch.zeros_like(possible)
    for name, at in _names(base):
        if name not in found["edges"]:
            raise UserError(f"{path}: no edge {name!r}, which {base.subject.name} has")
        one = found["edges"][name]
        scores[at] += float(one.get("score") or 0.0)
        kept[at] |= bool(one.get("in_graph"))
    return scores, kept


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the circuit in {path}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), dict) for key in ("cfg", "nodes", "edges")):
        raise UserError(f"{path}: no circuit: it needs cfg, nodes and edges, as EAP-IG and MIB write them")
    return found


def _config(subject: Subject) -> dict[str, Any]:
    parallel = anatomy.is_parallel(subject.layers[0])
    sizes = {"n_layers": subject.n_layers, "n_heads": subject.n_heads, "d_model": subject.d_model}
    return {**sizes, "parallel_attn_mlp": parallel}


def _names(base: Recording) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every edge's names, and its place in the matrix."""
    possible, writers = possible_edges(base), list(every_writer(base))
    shared = sharing(base)
    for i, reader in enumerate(every_reader(base)):
        for into in _readers(reader, shared):
            for j in possible[i].nonzero()[:, 0].tolist():
                yield f"{_writer(writers[j])}->{into}", (i, j)


def _writer(writer: Writer) -> str:
    return {"embed": "input", "mlp": f"m{writer.layer}"}.get(writer.kind, f"a{writer.layer}.h{writer.head}")


def _readers(reader: Reader, shared: int) -> list[str]:
    """One name, of a shared key or value one for each of its query heads."""
    if reader.kind in ("mlp", "final"):
        return [f"m{reader.layer}" if reader.kind == "mlp" else "logits"]
    heads = [reader.head] if reader.kind == "q" else range(reader.head * shared, (reader.head + 1) * shared)
    return [f"a{reader.layer}.h{head}<{reader.kind}>" for head in heads]
