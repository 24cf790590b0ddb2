"""Attention sinks: which tokens are massive, who attends to them, and do both criteria agree?

A sink token is found twice: by its residual (sink value φ of the massive dimensions) and by the attention that it
receives. `roles` chooses the tokens that are asked about: of text, question or image.

Tables: threshold, dimensions, tokens, agreement, heads, hidden, magnitude, summary; where prompts hold images also
those of `visual_sinks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...probes.observe.tracing import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.plan import first_condition
from ...probes.runs.results import How
from .. import metrics
from ..common.columns import column_counts
from ..common.frames import held_out
from ..common.massive import image_phi, learn_sinks
from ..common.thumbnails import picture_rows
from . import _visual_sinks
from ._sink_findings import findings
from ._sink_summary import (
    STATEMENTS,
    claims,
)
from ._sink_tables import TABLES

__all__ = ["CLAIMS", "TABLES", "claims", "findings"]

VERSION = 4
CLAIMS = STATEMENTS
QUESTION = "Which tokens soak up attention, and is it those with massive activations?"
PAPER = "arXiv 2503.03321 (sink value φ), arXiv 2406.15765 (hidden sinks), both formulas on text"
FIT_EXAMPLES = 8


@dataclass(frozen=True)
class Options:
    """What counts as a sink.

    min_abs, min_ratio: a massive dimension exceeds both, in |x| and in multiples of the median |x| of its state.
    dimensions, tau: fixed by hand, or learned on held-out examples where None. receives: a sink's column mean over
    all N queries exceeds receives/N, that is, it takes the attention of more than `receives` queries. hidden:
    column mean above which another token than the first is a hidden sink. roles: the tokens that are asked about.
    draws: random sets of image tokens that are masked beside those above every threshold; 0: nothing is masked. taus:
    these thresholds, learned where they are empty.
    """

    min_abs: float = 100.0
    min_ratio: float = 1000.0
    dimensions: tuple[int, ...] | None = None
    tau: float | None = None
    receives: float = 5.0
    hidden: float = 0.1
    roles: tuple[str, ...] = ("special", "text")
    draws: int = 0
    taus: tuple[float, ...] = ()


class Learned(NamedTuple):
    """dimensions, tau (None without a dimension), taus: those of the options, or found where they leave it open."""

    dimensions: Sequence[int] = ()
    tau: float | None = None
    taus: Sequence[float] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    dims = ", ".join(map(str, learned.dimensions or ())) or "none found"
    tau = "no threshold" if learned.tau is None else f"τ = {learned.tau:.2f}"
    return (
        f"Massive dimensions ({dims}; |x| above {options.min_abs:g} and {options.min_ratio:g} times the median "
        f"of the state) and the threshold ({tau}, the geometric mean of the first token's and the median token's φ "
        f"over the middle half of the states) were found on {held_out(fitted_on)}. φ is read from the "
        "residual entering each layer. Attention received is averaged over the real queries that can see the "
        f"column; for the criterion of a sink (above {options.receives:g}/N) over all N queries, since the last "
        "columns are seen by few. Shares of heads are over all real queries but the first. Random tokens and shuffles "
        "are drawn for each example among the tokens that are asked about."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """Massive dimensions and τ from held-out batches of every condition, unless the options fix them.

    τ comes from the first condition; one τ serves all conditions, so that their shares can be compared.
    """
    massive = learn_sinks(subject, batches, options.dimensions, options.tau, options.min_abs, options.min_ratio)
    taus = list(options.taus)
    if not taus and options.draws and massive.dimensions and bool(batches[0].where("image").any()):
        phi = image_phi(subject, first_condition(batches), massive.dimensions)
        taus = _visual_sinks.thresholds(phi, massive.tau)
    return Learned(massive.dimensions, massive.tau, taus)


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """φ and attention received per token [b, p]; attention on sinks per head [b, h]; |x| of two tokens [b, d]."""
    device = layer.resid_pre.device
    real = batch.mask.to(device)
    asked = _asked(batch, how.options).to(device)
    phi = _phi(layer, how.learned.dimensions)
    sinks = asked & (phi >= (np.inf if how.learned.tau is None else how.learned.tau))
    massive = layer.resid_pre[..., list(how.learned.dimensions)].float().abs()
    rows = {
        "peaks": massive.masked_fill(~asked[..., None], 0.0).amax(1),
        "phi": phi.masked_fill(~asked, torch.nan),
    }
    rows |= _attended(layer, real, asked, sinks, how.options) if layer.attends else dict.fromkeys(_OF_HEADS)
    by_token = ("phi", "received", "column_mean", "hidden")
    rows = {name: row if row is None or name not in by_token else batch.aligned(row) for name, row in rows.items()}
    if bool(batch.where("image").any(1).all()):
        rows |= _visual_sinks.observe(layer, batch, phi, how.learned.tau)
    return rows | _magnitudes(layer, batch, phi, asked)


_OF_HEADS = ("received", "column_mean", "hidden", "sink_share", "random_share", "first_share", "hidden_rate")


def _attended(layer: Layer, real: Tensor, asked: Tensor, sinks: Tensor, options: Options) -> dict[str, Tensor | None]:
    """The rows that are of heads, in the order of _OF_HEADS."""
    first = real & (real.cumsum(1) == 1)
    queries, nonsink = real & ~first, asked & ~sinks
    everyone, behind, received, hidden = _columns(layer, real, first, options)
    expected = sinks.sum(1) / nonsink.sum(1)
    return {
        "received": received.masked_fill(~asked, torch.nan),
        "column_mean": (everyone.mean(1) / real.sum(1)[:, None]).masked_fill(~asked, torch.nan),
        "hidden": (hidden & asked[:, None]).float().mean(1).masked_fill(~asked, torch.nan),
        "sink_share": _share(behind, sinks, queries),
        "random_share": _share(behind, nonsink, queries) * expected[:, None],
        "first_share": _share(behind, first, queries),
        "hidden_rate": (hidden & asked[:, None]).sum(2).float(),
    }


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Magnitudes of the middle state only, and what a uniform head would give every column."""
    half = subject.n_layers // 2
    for name in ("magnitude_first", "magnitude_median"):
        kept[name] = kept[name][:, half]
    mask = batch.mask
    weights = mask.float() / mask.cumsum(1).clamp(min=1)
    behind = mask.flip(1).cumsum(1).flip(1).clamp(min=1)
    uniform = weights.flip(1).cumsum(1).flip(1) / behind
    kept["uniform"] = batch.aligned(uniform.masked_fill(~_asked(batch, how.options), torch.nan))
    kept["length"] = mask.sum(1)
    if "visual|patches" in kept:
        kept |= picture_rows(batch)
        if how.options.draws and how.learned.taus:
            phi = kept["visual|patches"][:, half]
            kept |= _visual_sinks.masked(subject, batch, phi, how.learned.taus, how.options.draws)
    return kept


def _asked(batch: Batch, options: Options) -> Tensor:
    return torch.stack([batch.where(role) for role in options.roles]).any(0)


def _phi(layer: Layer, dimensions: Sequence[int]) -> Tensor:
    if not dimensions:
        return layer.resid_pre.new_full(layer.resid_pre.shape[:2], torch.nan, dtype=torch.float32)
    return metrics.sink_values(layer.resid_pre, list(dimensions))


def _columns(layer: Layer, real: Tensor, first: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In one pass over the maps, a few examples alive at a time:

    attention summed on every column [b, h, k], by all real queries and by those behind the first token; attention
    received [b, k] (mean over heads and over the real queries that see it); hidden sinks Bool[b, h, k].
    """
    summed, received, hidden = [], [], []
    for part, pattern in layer.sums.patterns(layer.attention):
        queries = torch.stack([real[part], real[part] & ~first[part]], 1)
        sums, seen = column_counts(layer.attention, part, pattern, queries)
        everyone, behind = sums.unbind(2)
        mean = everyone / seen
        summed.append(torch.stack([everyone, behind]))
        received.append(mean.mean(1))
        hidden.append(metrics.are_hidden(mean, seen, real[part], threshold=options.hidden))
    everyone, behind = torch.cat(summed, 1)
    return everyone, behind, torch.cat(received), torch.cat(hidden)


def _share(on_columns: Tensor, columns: Tensor, queries: Tensor) -> Tensor:
    """Mean attention of a query on a set of columns, [b, h]."""
    return torch.einsum("bhk,bk->bh", on_columns, columns.float()) / queries.sum(1)[:, None]


def _magnitudes(layer: Layer, batch: Batch, phi: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """|x| over dimensions of the first token and of the token with the median φ, [b, d] each."""
    rank = torch.where(asked, phi.nan_to_num(), torch.inf).argsort(1)
    median = rank.gather(1, ((asked.sum(1) - 1) // 2)[:, None])[:, 0]
    rows = torch.arange(len(phi), device=phi.device)
    ordinary = layer.resid_pre[rows, median].float().abs()
    return {
        "magnitude_first": layer.resid_pre[rows, batch.start.to(phi.device)].float().abs(),
        "magnitude_median": ordinary,
        "median_magnitude": ordinary.median(1).values,
    }


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    by_layer = 4 * positions + 4 * subject.n_heads + len(options.dimensions or (0, 0)) + 1
    return subject.n_layers * by_layer + 2 * subject.d_model + positions


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: one example recorded at a time, with its sets of masked tokens as variants of
    its rows behind the image.
    """
    sets = (len(options.taus) or len(_visual_sinks.QUANTILES) + 1) * (1 + options.draws) if options.draws else 0
    if not sets:
        return 0
    return costs.recording(subject, 1, positions) + costs.variants(subject, sets, 1, positions, positions)
