"""Weights of heads and layers: which heads read each other, ranks and spectra, what queries and keys can tell

Composition of every pair of heads whole and by singular component, eigenvalues and symmetry of OV and QK, spectra of
all matrices, rotary pairs that are used, heads that look one token back by position alone, keys that interfere or
cannot be ranked first. Tables: composition, between, composed, heads, beside_chance, matrices, frequencies, pairs,
distances, keys, tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._circuits import circuits_of, of_heads, permuted
from ._composed import KINDS, composed
from ._distances import DISTANCES, read_distances
from ._keys import NULLS, read_keys
from ._matrices import MATRICES, OF_MATRICES, of_matrices
from ._weight_findings import findings
from ._weight_tables import RUN_TABLES, TABLES

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 2
QUESTION = "What do the weights say of heads and layers, before any prompt: who reads whom, how many directions count?"
PAPER = (
    "Elhage et al. 2021; arXiv 2406.09519 (Talking Heads), 2406.06623 (Spectrum), 2502.14837 (MHA2MLA), 2305.02582, "
    "2310.00535 (JoMA)"
)
CLAIMS = (
    Statement(
        "components stand out",
        "Heads speak through single components: for more than half of the heads the strongest component that their "
        "keys read of an earlier head's OV scores above the largest of all such scores of permuted weights.",
        "arXiv 2406.09519 (Talking Heads), style; bar and control are this project's",
        0.5,
    ),
    Statement(
        "symmetric scores",
        "W_Q W_Kᵀ is more symmetric than chance: the squared share of its symmetric part is above ½, and above that of "
        "permuted weights.",
        "own reading of a title, style; the control is this project's",
        0.5,
    ),
    Statement(
        "few rotary pairs",
        "Few rotary frequencies carry the scores: the quarter of the pairs that a key head uses most holds more than "
        "half of the use, and more than with the keys' pairs in another order.",
        "arXiv 2502.14837 (MHA2MLA), style; bar and control are this project's",
        0.5,
    ),
    Statement(
        "keys interfere",
        "Keys are crowded: without their mean, the mean squared cosine of different keys is more than twice that of "
        "random directions (1 / d_head).",
        "own reading of an abstract on association capacity, style; the bar is this project's",
        2.0,
    ),
    Statement(
        "keys can be chosen",
        "Nearly every key can be ranked first by some query: of texts with d_head + 2 keys or more (of fewer none can "
        "lie inside) less than a tenth lie inside the convex hull of the others, and fewer than of Gaussian keys of "
        "their covariance. Where these have none either, the number of dimensions is enough, and it is not shown.",
        "arXiv 2305.02582 (there of inputs: 22 to 45 % without LayerNorm, 0 behind it), asked of each head's keys; the "
        "bar is what some forty texts can show",
        0.1,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """draws: of weights with permuted entries, two at least: the largest score of the first is the bar, the others are
    held against it. hull: layers, evenly spaced, whose keys are tested for the convex hull; 0 for none.
    """

    draws: int = 2
    hull: int = 4


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "From the weights alone, norms in front folded in, biases left out: W_Q W_Kᵀ and W_V W_O of every head. "
        "Composition: ‖OV · W‖ / (‖OV‖ ‖W‖) of an earlier head's OV with what a later head's queries, keys or values "
        "read, whole and for each singular component of OV; by chance both are near 1/√d. Rotary positions are left "
        "out: W holds at distance 0. Eigenvalues: Σ Re λ / Σ |λ|. Signal over noise as in Spectrum: it depends on "
        "shape and scale, so it is drawn over that of the same matrix with its entries permuted. Control: the entries "
        f"of every matrix permuted ({options.draws} draws); random weights of the same shape have the same scores by "
        "chance. From texts: keys as the attention reads them, without each text's first token; use of a rotary pair: "
        "mean norm of the queries' part times that of the keys'; by position alone: the mean query's score with the "
        f"mean key at distances 0 to {DISTANCES - 1}, as the rotation turns them, of text alone; control: the keys' "
        "rotary pairs in another order; interference: mean squared cosine of different keys; a key inside the convex "
        "hull of the others is ranked first by no query, read of texts with d_head + 2 keys or more; control: Gaussian "
        "keys of their mean and covariance. Of "
        "weights alone there is no sample: intervals take the layers as groups."
    )


def weights(subject: Any, options: Options) -> dict[str, Tensor]:
    """ "heads|…" [layer, h] (`_circuits.OF_HEADS`), "matrices|…" [layer, MATRICES], "Q|…", "K|…", "V|…" [layer, h,
    layer, h]; each again with "|permuted", of the first draw, and "bar", "beaten": see `_bars`. UserError: options.
    """
    _require(options)
    circuits = circuits_of(subject)
    found = _whole(subject, circuits)
    for draw in range(options.draws):
        mixed = _whole(subject, permuted(circuits, draw), draw)
        found |= {f"{name}|permuted {draw}": value for name, value in mixed.items() if draw == 0 or name[1:] == "|part"}
    return found


def _whole(subject: Any, circuits: Any, draw: int | None = None) -> dict[str, Tensor]:
    heads = {f"heads|{name}": value for name, value in of_heads(circuits, subject.n_layers).items()}
    matrices = of_matrices(subject, draw) if not draw else {}
    return (
        heads | {f"matrices|{name}": value for name, value in matrices.items()} | composed(circuits, subject.n_layers)
    )


def _require(options: Options) -> None:
    if options.draws < 2:
        raise UserError(f"--weights.draws {options.draws}: at least 2 are needed, one for the bar and one beside it")
    if options.hull < 0:
        raise UserError(f"--weights.hull {options.hull}: a number of layers, 0 for none")


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """See `_keys.read_keys` and `_distances.read_distances`."""
    count, several = how.options.hull, layer.stack.attending
    chosen = {several[round(i * (len(several) - 1) / max(count - 1, 1))] for i in range(min(count, len(several)))}
    return read_keys(layer, batch, layer.index in chosen) | read_distances(layer, batch)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    keys = subject.decoder.n_kv_heads * (len(NULLS) + 2 + subject.decoder.d_head)
    return subject.n_layers * (keys + 2 * subject.n_heads * DISTANCES)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: circuits of all heads twice, and their scores."""
    heads = subject.n_layers * subject.n_heads
    circuits = 4 * heads * subject.d_model * subject.decoder.d_head * 4
    scores = 4 * len(KINDS) * (4 + options.draws) * heads**2
    return 2 * circuits + scores + 4 * subject.n_layers * len(MATRICES) * len(OF_MATRICES) + costs.wide_head(subject)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
