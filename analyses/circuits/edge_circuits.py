"""Circuits of edges: how much of a task so many edges do alone, and which estimate finds them

Edges between embeddings, heads, MLPs and output are ranked by gradients on held-out examples of one half of the groups;
circuits of the best ones are run for real on the other, every other edge ablated: the faithfulness, CPR and CMD of the
MIB circuit track. Tables: task, curve, area, kept, nodes, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.progress import tracked
from ...probes.intervene.edge_ablation import Written, edge_sweep, mean_written, silence
from ...probes.intervene.edge_attribution import BOTH_ENDS, edge_attribution, official_points
from ...probes.intervene.edge_files import load_edges
from ...probes.intervene.recording import Recording
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.agreement import FIVE, ONE
from ..common.claims import Claim, Statement
from ..common.contrast import PARTS, Contrast, contrast, task_rows
from ..common.selection import chosen_half, measured
from ..common.tested import judged
from ._edge_circuit_findings import findings
from ._edge_circuit_tables import BETTER, CLAIMED, ENDS, FEW, GIVEN, HELPFUL, TABLES
from ._edge_levels import (
    CHOICES,
    LEVELS,
    RANKINGS,
    SHARES,
    circuits_of,
    graph_of,
    levels_of,
    pack,
    shuffled_levels,
    unpack,
)

__all__ = ["TABLES", "claims", "findings"]

VERSION = 1
QUESTION = "How few edges between heads and MLPs do the task alone, and which gradients find them?"
PAPER = "arXiv 2403.17806 (EAP-IG), 2310.10348 (edge attribution patching), 2504.13151 (MIB: CPR and CMD)"
FIT_EXAMPLES = 32
_ABLATED = ("twin", "mean", "nothing")
_OFFICIAL = "5 steps, official"  # the official code's points on the way
CLAIMS = (
    Statement(
        FEW,
        f"Few edges do the task: with {100 * CLAIMED:.0f} % of the edges (largest |effect| first, five gradients) "
        "faithfulness is above 0.8, and above that of as many random edges between the same layers.",
        "arXiv 2403.17806; bar and control are this project's",
        0.8,
    ),
    Statement(
        BETTER,
        "Five gradients find more faithful circuits than one: the area between 1 and the curve (CMD) is smaller "
        "(difference below 0).",
        "arXiv 2403.17806",
        side="below",
    ),
    Statement(
        HELPFUL,
        "Ranked by how much they help, edges make circuits that do more than the whole model: CPR is above 1, and "
        "above that of random edges between the same layers.",
        "arXiv 2504.13151 reports areas above 1 for EAP-IG; bar and control are this project's",
        1.0,
    ),
)


@dataclass(frozen=True)
class Options:
    """level: edges are ranked each by itself, or with all of their writer's ("node"). choice: the top ones, or greedily
    from the output up. ablated: what speaks at an edge that is lost: the twin's run, the mean over held-out prompts, or
    nothing. draws: random circuits of each size. official: also five gradients at the official code's points.
    circuit: a file of EAP-IG's or MIB's format whose scores are run too, "" for none.
    """

    level: str = "edge"
    choice: str = "top"
    ablated: str = "twin"
    draws: int = 2
    official: bool = False
    circuit: str = ""


class Learned(NamedTuple):
    """levels: "method|ranking" -> which circuit is the first to have each edge (`_edge_levels.pack`). writers, readers:
    [kind, layer, head] of the graph's. means: what writers say on average, where they are ablated so. selected_on: the
    groups that chose.
    """

    levels: Mapping[str, str] = {}
    writers: Sequence[Sequence[Any]] = ()
    readers: Sequence[Sequence[Any]] = ()
    means: Sequence[Sequence[Sequence[float]]] = ()
    selected_on: Sequence[str] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    spoken = {
        "twin": "what its writer says in the corrupt twin's run",
        "mean": "what its writer says on average over held-out prompts and their positions",
        "nothing": "nothing (zero ablation)",
    }[options.ablated]
    ranked = "edges" if options.level == "edge" else "writers, each with all of its edges,"
    how = "the best ones" if options.choice == "top" else "the best ones into what is there already, from the output up"
    return (
        "An edge is the path from embeddings, head or MLP to the own input of a head's query, key or value (keys and "
        "values that heads share count once), of an MLP, or to the output. In a circuit every reader hears the writers "
        f"of its kept edges as they now speak, and at every other edge {spoken}; all is computed again from there. "
        f"{ranked.capitalize()} are ranked by what an edge's loss is estimated to do to answer − twin's answer: the "
        "change of its writer times the gradient at the reader, one gradient (1 step), the mean of five on the way, or "
        f"of the clean and the twin's ({ENDS}). Circuits are {how}, pruned of what hears nothing or nobody hears, at "
        f"the sizes of MIB (from {100 * SHARES[0]:.1f} % of all on). Faithfulness: (m − m₀) / (clean "
        "− m₀), m₀ with no edge. CPR: area under it over the share, edges that help most first; CMD: area between 1 "
        f"and it, largest |effect| first. Ranked on held-out examples of {len(learned.selected_on)} groups, of "
        f"{fitted_on['examples']} examples in all; measured on the other groups. Control: as many random edges between "
        f"the same two layers and into the same kind of reader, {options.draws} draws."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Every edge's level by each method and ranking, from held-out examples of one half of the groups."""
    _require(options)
    half, groups = chosen_half(subject, batches, "edge_circuits")
    graph, last, count = None, None, 0
    totals: dict[str, Tensor] = {}
    runs: list[Recording] = []
    for batch in tracked(half, "every edge's effect on held-out examples"):
        found = contrast(subject, batch)
        graph = graph or graph_of(found.base)
        runs += [found.base] if options.ablated == "mean" else []
        for name, how in _methods(options).items():
            edges = edge_attribution(subject, found.base, found.donor, measure=found.measure, **how)
            totals[name] = totals.get(name, torch.zeros(())) + edges.values.sum(-1)
        count += len(batch.examples)
        last = found.base
    assert graph is not None
    assert last is not None
    effects = {name: total / count for name, total in totals.items()}
    if options.circuit:
        effects[GIVEN] = -load_edges(Path(options.circuit).expanduser(), last)[0]
    levels = {
        f"{name}|{ranking}": pack(levels_of(effect, graph, ranking, options.level, options.choice))
        for name, effect in effects.items()
        for ranking in RANKINGS
    }
    means = _kept(mean_written(subject, runs)) if runs else []
    return Learned(levels, [[*w] for w in graph.writers], [[*r] for r in graph.readers], means, groups)


def _methods(options: Options) -> dict[str, dict[str, Any]]:
    more = {_OFFICIAL: {"shares": official_points(5)}} if options.official else {}
    return {ONE: {"steps": 1}, FIVE: {"steps": 5}, ENDS: {"shares": BOTH_ENDS}} | more


def _require(options: Options) -> None:
    for name, given, known in (
        ("level", options.level, LEVELS),
        ("choice", options.choice, CHOICES),
        ("ablated", options.ablated, _ABLATED),
    ):
        if given not in known:
            raise UserError(f"--edge_circuits.{name} {given}: one of {', '.join(known)}")
    if options.level == "node" and options.choice == "greedy":
        raise UserError("--edge_circuits.choice greedy: only edges are chosen so; leave --edge_circuits.level at edge")


def _kept(means: Written) -> list[list[list[float]]]:
    return [[means.embeddings.tolist()], *(layer.tolist() for layer in means.layers)]


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """ "curve|method|ranking" [b, shares], "random|ranking" [b, draw, shares], of the circuits but the whole, which is
    the clean run; "none" [b] without any edge. NaN for examples of the groups that edges were chosen on.
    """
    found = contrast(subject, batch)
    rows = task_rows(found)
    scored = torch.from_numpy(measured([e.group for e in batch.examples], how.learned.selected_on))
    examples = [e for e, there in zip(batch.examples, scored.tolist(), strict=True) if there]
    names = {"none": torch.full((len(scored),), torch.nan)}
    few = contrast(subject, subject.batch(examples, **batch.form)) if examples else None
    values = _curves(subject, few, how) if few is not None else {}
    shape = len(SHARES) - 1
    for name in how.learned.levels:
        names[f"curve|{name}"] = torch.full((len(scored), shape), torch.nan)
    for ranking in RANKINGS:
        names[f"random|{ranking}"] = torch.full((len(scored), how.options.draws, shape), torch.nan)
    for name, value in values.items():
        names[name][scored] = value
    return rows | names


def _curves(subject: Any, found: Contrast, how: How) -> dict[str, Tensor]:
    """All circuits in one sweep, equal ones once."""
    graph, learned = graph_of(found.base), how.learned
    levels = {f"curve|{name}": [unpack(text, graph.possible.shape)] for name, text in learned.levels.items()}
    for ranking in RANKINGS:
        own = levels[f"curve|{FIVE}|{ranking}"][0]
        levels[f"random|{ranking}"] = [shuffled_levels(own, graph, draw) for draw in range(how.options.draws)]
    flat = [circuit for several in levels.values() for one in several for circuit in circuits_of(one)]
    sweep = edge_sweep(subject, found.base, _speaking(subject, found.donor, how), flat, measure=found.measure)
    values = iter(sweep.values.unflatten(0, (-1, len(SHARES) - 1)))
    donor = sweep.donor
    assert donor is not None
    rows = {"none": donor.cpu()}
    for name, several in levels.items():
        of_name = torch.stack([next(values).T for _ in several], 1).cpu()
        rows[name] = of_name[:, 0] if name.startswith("curve") else of_name
    return rows


def _speaking(subject: Any, donor: Recording, how: How) -> Recording | Written:
    if how.options.ablated == "twin":
        return donor
    if how.options.ablated == "nothing":
        return silence(subject)
    embeddings, *layers = (torch.tensor(part) for part in how.learned.means)
    return Written(embeddings[0], layers)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    curves = len(RANKINGS) * (len(_methods(options)) + bool(options.circuit) + options.draws)
    return curves * (len(SHARES) - 1) + 7


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: both runs recorded, what every writer says in both, every edge's gradient."""
    writers, readers = subject.n_layers * (subject.n_heads + 1) + 1, subject.n_layers * (3 * subject.n_heads + 1) + 1
    recordings = 2 * costs.recording(subject, batch, positions, PARTS.values())
    said = 2 * 4 * batch * positions * subject.d_model * (writers + 3 * subject.n_heads)
    return recordings + max(said, 2 * costs.gradient(subject, batch, positions) + 4 * batch * readers * writers)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say of circuits of edges, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
