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

from ...data.progress import tracked
from ...probes.intervene.edge_ablation import Written, edge_sweep, mean_written, require_plain, silence
from ...probes.intervene.edge_files import load_edges
from ...probes.intervene.recording import Recording
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.agreement import FIVE
from ..common.claims import Claim, Statement
from ..common.contrast import PARTS, Contrast, contrast, task_rows
from ..common.selection import chosen_half, measured
from ..common.tested import judged
from ._edge_asked import effects_of, methods_of, require_known
from ._edge_auroc import areas_of
from ._edge_circuit_findings import findings
from ._edge_circuit_methods import methods
from ._edge_circuit_tables import BETTER, CLAIMED, FEW, GIVEN, HELPFUL, TABLES
from ._edge_levels import (
    RANKINGS,
    SHARES,
    circuits_of,
    graph_of,
    levels_of,
    pack,
    random_levels,
    shape_of,
    unpack,
)

__all__ = ["TABLES", "claims", "findings", "methods"]

VERSION = 3
QUESTION = "How few edges between heads and MLPs do the task alone, and which gradients find them?"
PAPER = "arXiv 2403.17806 (EAP-IG), 2310.10348 (edge attribution patching), 2504.13151 (MIB: CPR and CMD)"
FIT_EXAMPLES = 32
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
    """level: edges are ranked each by itself, or with all of their writer's ("node"); or the coordinates of what
    writers say ("neuron", in MIB's sense). choice: the top ones, or greedily from the output up. ablated: what speaks
    at an edge that is lost: the twin's run, the mean over held-out prompts, or nothing. draws: random circuits of each
    size. official: also five gradients at the official code's points. activations: also five along what each writer
    says, for about as many times as long as there are layers. circuit: a file of EAP-IG's or MIB's format whose scores
    are run too, "" for none; where it says which edges are in the circuit, the run's own scores are judged by these.
    """

    level: str = "edge"
    choice: str = "top"
    ablated: str = "twin"
    draws: int = 2
    official: bool = False
    activations: bool = False
    circuit: str = ""


class Learned(NamedTuple):
    """levels: "method|ranking" -> which circuit is the first to have each edge (`_edge_levels.pack`). writers, readers:
    [kind, layer, head] of the graph's. means: what writers say on average, where they are ablated so. selected_on: the
    groups that chose. width: of what a writer says, where its coordinates are kept and lost; else 0. auroc: that
    table's rows, where a circuit was given.
    """

    levels: Mapping[str, str] = {}
    writers: Sequence[Sequence[Any]] = ()
    readers: Sequence[Sequence[Any]] = ()
    means: Sequence[Sequence[Sequence[float]]] = ()
    selected_on: Sequence[str] = ()
    width: int = 0
    auroc: Sequence[Mapping[str, Any]] = ()


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Every edge's level by each method and ranking, from held-out examples of one half of the groups."""
    require_known(options)
    half, groups = chosen_half(subject, batches, "edge_circuits")
    graph, last, count, neurons = None, None, 0, options.level == "neuron"
    totals: dict[str, Tensor] = {}
    each: dict[str, list[Tensor]] = {}
    runs: list[Recording] = []
    for batch in tracked(half, "every edge's effect on held-out examples"):
        found = contrast(subject, batch)
        require_plain(found.base)  # before gradients of a model that none of the circuits could run on
        graph = graph or graph_of(found.base)
        runs += [found.base] if options.ablated == "mean" else []
        for name, how in methods_of(options).items():
            effect = effects_of(subject, found, options, how)
            each.setdefault(name, []).extend([effect] if options.circuit else [])
            totals[name] = totals.get(name, torch.zeros(())) + (effect if neurons else effect.sum(-1))
        count += len(batch.examples)
        last = found.base
    assert graph is not None
    assert last is not None
    effects = {name: total / count for name, total in totals.items()}
    judged_by: list[dict[str, Any]] = []
    if options.circuit:
        scores, known = load_edges(Path(options.circuit).expanduser(), last)
        by_group = [example.group for batch in half for example in batch.examples]
        judged_by = areas_of(each, by_group, known, graph, options.draws)
        effects[GIVEN] = -scores
    levels = {
        f"{name}|{ranking}": pack(levels_of(effect, graph, ranking, options.level, options.choice))
        for name, effect in effects.items()
        for ranking in RANKINGS
    }
    means = _kept(mean_written(subject, runs)) if runs else []
    width = subject.d_model if neurons else 0
    ends = [[*w] for w in graph.writers], [[*r] for r in graph.readers]
    return Learned(levels, *ends, means, groups, width, judged_by)


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
    level, width = how.options.level, learned.width
    shape = shape_of(graph, level, width)
    levels = {f"curve|{name}": [unpack(text, shape)] for name, text in learned.levels.items()}
    for ranking in RANKINGS:
        own = levels[f"curve|{FIVE}|{ranking}"][0]
        levels[f"random|{ranking}"] = [random_levels(own, graph, level, draw) for draw in range(how.options.draws)]
    flat = [circuit for several in levels.values() for one in several for circuit in circuits_of(one)]
    speaking = _speaking(subject, found.donor, how)
    sweep = edge_sweep(subject, found.base, speaking, flat, measure=found.measure, units=level == "neuron")
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
    curves = len(RANKINGS) * (len(methods_of(options)) + bool(options.circuit) + options.draws)
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
