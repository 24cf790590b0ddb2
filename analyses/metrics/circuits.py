"""Circuits in a graph of readers and writers: which edges are chosen, what a pruned circuit is, areas under its curve.

`owners` says what a reader is part of: Bool[reader, writer], a head's query, key and value of that head (a shared key
of several heads), an MLP's input of that MLP. The first writer is the input, which reads nothing; the last reader is
the output, which is nobody's. Scores are NaN where there is no edge.
"""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ._checks import require, require_shape

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the edges, arXiv 2504.13151


def circuit_areas(faithfulness: ArrayLike, shares: Sequence[float]) -> dict[str, float]:
    """CPR ∫ f and CMD ∫ |1 − f| over the share kept, from the first to the last of `shares`, trapezoids; and both over
    log₁₀ of it from the first above 0 on, per decade ("…, log axis", where two are).

    On MIB_SHARES, of circuits ranked by signed scores (CPR) and by |score| (CMD), as MIB computes them.
    Source: arXiv 2504.13151, hannamw/MIB-circuit-track [code]. Errors: ValueError for another number of shares.
    """
    curve, x = np.asarray(faithfulness, float), np.array(shares, float)
    require(curve.shape == x.shape and len(x) > 0, f"{len(curve)} values of {len(x)} shares")
    off, there = np.abs(1 - curve), x > 0
    found = {"CPR": float(np.trapezoid(curve, x)), "CMD": float(np.trapezoid(off, x))}
    log = np.log10(x[there])
    if len(log) < 2:
        return found
    per_decade = {n: np.trapezoid(y[there], log) / (log[-1] - log[0]) for n, y in (("CPR", curve), ("CMD", off))}
    return found | {f"{name}, log axis": float(value) for name, value in per_decade.items()}


def top_edges(
    scores: Float[Tensor, "reader writer"], owners: Bool[Tensor, "reader writer"], count: int, absolute: bool = True
) -> Bool[Tensor, "reader writer"]:
    """The `count` edges of largest |score|, or of largest score, pruned. Ties go to the first reader, then writer.

    Source: arXiv 2403.17806, hannamw/EAP-IG `apply_topn` [code].
    Errors: ValueError for other shapes, or more edges than there are.
    """
    order = _order(scores, owners, absolute)
    require(0 <= count <= len(order), f"{count} edges of {len(order)}")
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order[:count]] = True
    return pruned_edges(kept.view_as(owners), owners)


def greedy_edges(
    scores: Float[Tensor, "reader writer"], owners: Bool[Tensor, "reader writer"], count: int, absolute: bool = True
) -> Bool[Tensor, "reader writer"]:
    """From the output up: the best edge into what is in the circuit already, `count` times; pruned. As `top_edges`.

    Source: arXiv 2403.17806, hannamw/EAP-IG `apply_greedy` [code].
    """
    require(0 <= count <= len(_order(scores, owners, absolute)), f"{count} edges of {int((~scores.isnan()).sum())}")
    kept = torch.zeros_like(owners)
    for reader, writer in _greedily(scores.abs() if absolute else scores, owners, count):
        kept[reader, writer] = True
    return pruned_edges(kept, owners)


def _greedily(scores: Tensor, owners: Tensor, count: int) -> Iterator[tuple[int, int]]:
    frontier: list[tuple[float, int, int]] = []
    inside: set[int] = {0}
    entered: set[int] = set()

    def enter(reader: int) -> None:
        if reader not in entered:
            entered.add(reader)
            for writer in (~scores[reader].isnan()).nonzero()[:, 0].tolist():
                heapq.heappush(frontier, (-float(scores[reader, writer]), reader, writer))

    enter(len(scores) - 1)
    while count and frontier:
        _, reader, writer = heapq.heappop(frontier)
        yield reader, writer
        count -= 1
        if writer not in inside:
            inside.add(writer)
            for own in owners[:, writer].nonzero()[:, 0].tolist():
                enter(own)


def top_nodes(
    scores: Float[Tensor, "writer"],
    possible: Bool[Tensor, "reader writer"],
    owners: Bool[Tensor, "reader writer"],
    count: int,
    absolute: bool = True,
) -> Bool[Tensor, "reader writer"]:
    """All edges of the `count` writers of largest |score| (or score), and of those without one (NaN), pruned.

    Source: hannamw/EAP-IG `apply_topn`, level node [code]. Errors: ValueError for more writers than have a score.
    """
    require_shape("scores", scores, possible.shape[1])
    known = ~scores.isnan()
    require(0 <= count <= int(known.sum()), f"{count} writers of {int(known.sum())}")
    ranked = (scores.abs() if absolute else scores).masked_fill(~known, -torch.inf)
    chosen = ~known
    chosen[ranked.argsort(descending=True, stable=True)[:count]] = True
    return pruned_edges(possible & chosen, owners)


def pruned_edges(
    kept: Bool[Tensor, "reader writer"], owners: Bool[Tensor, "reader writer"]
) -> Bool[Tensor, "reader writer"]:
    """Without edges of writers that hear nothing (but the input) and without edges into what nobody hears, until none
    is left. Source: hannamw/EAP-IG `prune` [code].
    """
    require_shape("owners", owners, *kept.shape)
    member = owners.float()
    while True:
        hears = (member.T @ kept.any(1).float()) > 0
        hears[0] = True
        alive = hears & kept.any(0)
        heard = (member @ alive.float()) > 0
        heard[-1] = True
        left = kept & alive & heard[:, None]
        if torch.equal(left, kept):
            return kept
        kept = left


def edge_auroc(scores: Float[Tensor, "reader writer"], truth: Bool[Tensor, "reader writer"]) -> float:
    """Area under the ROC curve of |scores| for the edges of a known circuit, ½ by chance; NaN where the known circuit
    has all edges or none. Source: InterpBench's use in arXiv 2504.13151, style (there by ten sizes of one circuit).
    """
    there = ~scores.isnan()
    known = truth[there]
    if not bool(known.any()) or bool(known.all()):
        return float("nan")
    return float(roc_auc_score(known.numpy(), scores[there].abs().numpy()))


def _order(scores: Tensor, owners: Tensor, absolute: bool) -> Tensor:
    """The edges that there are, best first, as indices of the flat matrix."""
    require_shape("owners", owners, *scores.shape)
    flat = (scores.abs() if absolute else scores).flatten()
    there = (~flat.isnan()).nonzero()[:, 0]
    return there[flat[there].argsort(descending=True, stable=True)]
