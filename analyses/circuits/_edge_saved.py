"""A circuit of a finished run of `edge_circuits` as JSON that EAP-IG and MIB read; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.errors import UserError
from ...probes.intervene.edge_files import write_edges
from ...probes.intervene.edge_graph import Writer
from ...probes.intervene.edge_slopes import Reader
from ._edge_levels import HELP, NEVER, SHARES, SIZE, unpack

RANKED = {"helpful": HELP, "size": SIZE}


def save_circuit(path: Path, record: Mapping[str, Any], method: str, ranking: str, share: float) -> int:
    """Writes one circuit of the run with this record, and says how many edges it has.

    method: as the run's page names it; ranking: one of RANKED; share: one of SHARES. An edge's score is larger the
    smaller the circuit that has it: 10 for the smallest, 1 where only the whole has it. UserError: another run, method
    or share; a circuit of neurons; a place that cannot be written.
    """
    if record["analysis"] != "edge_circuits":
        raise UserError(f"{record['name']} is a run of {record['analysis']}: circuits of edges are of edge_circuits")
    fitted, subject, name = record["fitted"], record["subject"], f"{method}|{RANKED[ranking]}"
    if fitted.get("width"):
        raise UserError("a circuit of neurons has no edges to save: run edge_circuits at level edge or node")
    if name not in fitted["levels"]:
        methods = sorted({one.partition("|")[0] for one in fitted["levels"]})
        raise UserError(f"{record['name']} has no circuit by {method!r}: {', '.join(methods)}")
    if share not in SHARES:
        raise UserError(f"no circuit of {share:g} of the edges: {', '.join(f'{one:g}' for one in SHARES)}")
    readers, writers = [Reader(*one) for one in fitted["readers"]], [Writer(*one) for one in fitted["writers"]]
    levels = unpack(fitted["levels"][name], (len(readers), len(writers)))
    possible, kept = levels != NEVER, levels <= SHARES.index(share)
    config = {one: subject[one] for one in ("n_layers", "n_heads", "d_model")}
    first = readers.index(Reader("mlp", 0, -1)), writers.index(Writer("head", 0, 0))
    config["parallel_attn_mlp"] = not bool(possible[first])  # an MLP that does not hear its own layer's heads
    write_edges(path, config, readers, writers, possible, len(SHARES) - levels.float(), kept)
    return int(kept.sum())
