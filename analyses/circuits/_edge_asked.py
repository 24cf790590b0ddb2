"""What a run of `edge_circuits` is asked for: the gradients that rank edges, and options that do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.edge_attribution import BOTH_ENDS, edge_attribution, official_points
from ...probes.intervene.unit_attribution import unit_attribution
from ..common.agreement import FIVE, ONE
from ..common.asked import require_counts
from ..common.contrast import Contrast
from ._edge_circuit_tables import ACTIVATIONS, ENDS
from ._edge_levels import CHOICES, LEVELS

_ABLATED = ("twin", "mean", "nothing")
_OFFICIAL = "5 steps, official"  # the official code's points on the way


def effects_of(subject: Any, found: Contrast, options: Any, how: Mapping[str, Any]) -> Tensor:
    """What losing each edge is estimated to do, [reader, writer, b]; each neuron, summed over examples."""
    if options.level == "neuron":
        return unit_attribution(subject, found.base, found.donor, measure=found.measure, **how)
    return edge_attribution(subject, found.base, found.donor, measure=found.measure, **how).values


def methods_of(options: Any) -> dict[str, dict[str, Any]]:
    more: dict[str, dict[str, Any]] = {_OFFICIAL: {"shares": official_points(5)}} if options.official else {}
    more |= {ACTIVATIONS: {"steps": 5, "along": "activations"}} if options.activations else {}
    return {ONE: {"steps": 1}, FIVE: {"steps": 5}, ENDS: {"shares": BOTH_ENDS}} | more


def require_known(options: Any) -> None:
    require_counts("edge_circuits", options, draws=1)
    for name, given, known in (
        ("level", options.level, LEVELS),
        ("choice", options.choice, CHOICES),
        ("ablated", options.ablated, _ABLATED),
    ):
        if given not in known:
            raise UserError(f"--edge_circuits.{name} {given}: one of {', '.join(known)}")
    if options.level != "edge" and options.choice == "greedy":
        raise UserError("--edge_circuits.choice greedy: only edges are chosen so; leave --edge_circuits.level at edge")
    if options.level == "neuron" and (options.activations or options.circuit):
        raise UserError("--edge_circuits.activations and .circuit are of edges: leave --edge_circuits.level at edge")
