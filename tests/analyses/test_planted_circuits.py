"""Circuits set by hand, as InterpBench does: how well each method's scores rank their edges (area under the ROC)."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from crosslens.analyses import metrics
from crosslens.analyses.circuits._edge_levels import Graph, graph_of, shuffled_levels
from crosslens.probes.intervene.edge_ablation import edge_sweep
from crosslens.probes.intervene.edge_attribution import BOTH_ENDS, edge_attribution, official_points
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.recording import record
from torch import Tensor

from ..helpers import planted, planted_ioi

METHODS: dict[str, dict[str, Any]] = {
    "one gradient": {"steps": 1},
    "five midpoints": {"steps": 5},
    "both ends": {"shares": BOTH_ENDS},
    "official points": {"shares": official_points(5)},
    "along activations": {"steps": 5, "along": "activations"},
}
# Of the induction circuit without the edges that say the same in both runs: places, and the last token's own query.
SAME = (("q", 0, 0), ("k", 0, 0), ("q", 1, 0))
INDUCTION = tuple(edge for edge in planted.BUILT if edge[0] not in SAME)
CIRCUITS = {
    "induction": (planted.induction_model, planted.prompts, INDUCTION),
    "indirect objects": (planted_ioi.ioi_model, planted_ioi.prompts, planted_ioi.BUILT),
    "saturated": (lambda: planted_ioi.ioi_model(sharp=1.0), planted_ioi.prompts, planted_ioi.BUILT),
}
# What every method reaches, rounded down. One gradient and both ends stay below: where attention is saturated at the
# base, and at the donor, no gradient passes through its softmax, so edges into queries and keys are estimated near 0.
REACHED = {
    "induction": (1.0, 0.98, 1.0, 0.98, 0.98, 1.0),
    "indirect objects": (1.0, 0.96, 1.0, 0.95, 1.0, 0.99),
    "saturated": (1.0, 0.93, 1.0, 0.92, 1.0, 0.99),
}
FLOORS = [(name, *pair) for name, some in REACHED.items() for pair in zip(("exact", *METHODS), some, strict=True)]


class Found(NamedTuple):
    subject: Any
    base: Any
    donor: Any
    measure: Any
    graph: Graph
    truth: Tensor


@cache
def circuit(name):
    make, prompts, built = CIRCUITS[name]
    subject = make()
    base, donor, answers, others = prompts()
    runs = [record(subject, one, ("z", "mlp_out")) for one in (base, donor)]
    graph = graph_of(runs[0])
    return Found(subject, *runs, logit_difference(answers, others), graph, planted.edges_of(built, graph))


@cache
def scores(name, method):
    one = circuit(name)
    if method != "exact":
        asked = METHODS[method]
        return edge_attribution(one.subject, one.base, one.donor, measure=one.measure, **asked).values.mean(-1)
    places = one.graph.possible.nonzero().tolist()
    without = [one.graph.possible.clone() for _ in places]
    for kept, (reader, writer) in zip(without, places, strict=True):
        kept[reader, writer] = False
    sweep = edge_sweep(one.subject, one.base, one.donor, without, measure=one.measure)
    found = torch.full(one.graph.possible.shape, torch.nan)
    found[one.graph.possible] = (sweep.values - sweep.clean).mean(1)
    return found


def area(name, method):
    return metrics.edge_auroc(scores(name, method), circuit(name).truth)


@pytest.mark.parametrize(("name", "method", "floor"), FLOORS)
def test_a_built_circuit_is_ranked_first(name, method, floor):
    """Also better than edges between the same layers, into the same kind of reader, drawn at random."""
    one, found = circuit(name), scores(name, method)
    levels = torch.where(one.truth, 0, 255).to(torch.uint8)
    drawn = [metrics.edge_auroc(found, shuffled_levels(levels, one.graph, draw) == 0) for draw in range(20)]
    assert area(name, method) >= floor
    assert sum(drawn) / len(drawn) < 0.8 < floor


@pytest.mark.parametrize("name", CIRCUITS)
def test_the_built_edges_do_the_task_and_each_is_needed(name):
    one, exact = circuit(name), scores(name, "exact")
    sweep = edge_sweep(one.subject, one.base, one.donor, [one.truth], measure=one.measure)
    span = (sweep.clean - sweep.donor).mean()
    assert (sweep.values[0] - sweep.donor).mean() / span == pytest.approx(1, abs=0.02)
    assert (-exact[one.truth] > 0.45 * span).all()
    assert exact[one.graph.possible & ~one.truth].abs().max() < 0.1 * span


def test_no_gradient_passes_through_saturated_attention():
    """The query of the name mover: losing it costs more than the whole task, and the gradient at the base is almost 0;
    on the way to the donor attention moves, and gradients see it.
    """
    edge = planted.edges_of([(("q", 2, 0), ("head", 1, 0))], circuit("saturated").graph)
    exact, one, five = (
        float(scores("saturated", method)[edge]) for method in ("exact", "one gradient", "five midpoints")
    )
    assert exact < -7
    assert abs(one) < 0.001 * abs(exact)
    assert five < -1
    softer = float(scores("indirect objects", "one gradient")[edge])
    assert abs(softer) > 10 * abs(one)


def test_the_twin_model_has_no_circuit():
    """Without its S-inhibition the model does not tell S from IO, and what that head says changes nothing."""
    subject = planted_ioi.ioi_model(planted=False)
    base, donor, answers, others = planted_ioi.prompts()
    runs = [record(subject, one, ("z", "mlp_out")) for one in (base, donor)]
    graph, measure = graph_of(runs[0]), logit_difference(answers, others)
    assert measure(runs[0].logits, torch.arange(len(answers))).mean() < 0.1
    found = edge_attribution(subject, *runs, measure=measure, steps=5).values
    assert found[planted.edges_of([(("q", 2, 0), ("head", 1, 0))], graph)].abs().max() < 1e-3
