"""Attention profile: which shape the heads' attention has, layer by layer

How widely heads spread their attention, how much is the first token's, the neighbours' and trivial patterns', how that
changes with the context, what rank maps have and how far heads are apart. Tables: indicators, layers, lengths,
overload, maps, law, tested.
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
from ._profile_findings import findings
from ._profile_maps import NAMES as OF_MAPS
from ._profile_maps import of_maps
from ._profile_rows import INDICATORS, LENGTHS, indicators
from ._profile_shuffled import LENGTHS_OF, by_length_of_shuffled
from ._profile_tables import TABLES

__all__ = ["TABLES", "findings"]

VERSION = 2
QUESTION = "Which shape has attention: how wide, how local, how much of it the first token's, and how different heads?"
PAPER = "arXiv 2510.11602 (eight indicators), 2410.09637 (overload), 2401.07004, 2410.13859, 2311.13541, 2003.05997"
CLAIMS = (
    Statement(
        "heads in the middle",
        "Most heads are neither sharp nor overloaded: more than four fifths have an entropy between a quarter and "
        "three quarters of the largest head's.",
        "arXiv 2410.09637 (ReLU's Revival), 2501.03489: about 90 % in a healthy GPT-2; the threshold is this project's",
        0.8,
        paper=0.9,
    ),
    Statement(
        "attention is local",
        "Heads look at their neighbourhood: without the first token, the token before gets more than uniform attention "
        "gives it (difference above 0).",
        "arXiv 2510.11602 (Deconstructing Attention), local focus; the sink twin is added here",
    ),
    Statement(
        "wider in long contexts",
        "A row's entropy does not keep up with its context: over that of uniform attention it falls from rows of 16 to "
        "31 keys to the longest that all prompts have, the first token left out, and more than for shuffled tokens.",
        "arXiv 2401.07004 (Entropy-ABF), code; over ln n and without the first token here",
        side="below",
    ),
    Statement(
        "layers by rank",
        "The rank of a layer's maps tells layers apart: from layer to layer it varies by more than a tenth of the "
        "largest possible rank (standard deviation), and by more than that of maps with each row's keys shuffled.",
        "arXiv 2410.13859 (γ-MoD, ARank), code; threshold and control are this project's",
        0.1,
    ),
    Statement(
        "heads are apart",
        "Heads of one layer attend to different keys: without the first token their divergence is above .1 nats. It is "
        "no more than sharpness where rows with shuffled keys are as far apart.",
        "arXiv 2003.05997 (Routing Transformer), style; the threshold is this project's",
        0.1,
    ),
    Statement(
        "trivial patterns",
        "Own token, previous token and first token explain a good part of the maps: R² above that of uniform attention "
        "of the same length by more than .25, mean over heads.",
        "EMNLP Findings 2023.868 (Roles of scaling), code; the threshold is this project's",
        0.25,
    ),
    Statement(
        "about log-normal",
        "Within a row ln A is about normal: its skewness is within .5 of 0, mean over heads of its size.",
        "arXiv 2311.13541, lln-style; the threshold is this project's",
        0.5,
        "below",
    ),
)


@dataclass(frozen=True)
class Options:
    """maps: whether ranks, divergence of heads and the law of ln A are computed. length: the first so many tokens of a
    prompt, of which these are taken.
    """

    maps: bool = True
    length: int = 96


def methods(options: Options, learned: None, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    told = (
        f" Ranks, divergence of heads and the law of ln A are of the first {options.length} tokens; control: the keys "
        "of each row in another order, by which its sharpness stays."
        if options.maps
        else ""
    )
    return (
        "Means over the rows of a prompt behind the first, whose one key has all attention; then over prompts. "
        "Uniform: the same of attention that is alike on all keys in view. Sink twin: without the first token, what is "
        f"left renormalised to 1. Shuffled tokens: the same prompt with its tokens in another order, the first in "
        f"place.{told}"
    )


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """See `_profile_rows.indicators` and `_profile_maps.of_maps`. UserError: a prompt of one token."""
    if bool((batch.mask.sum(1) < 2).any()):
        name = batch.example_ids[int((batch.mask.sum(1) < 2).nonzero()[0])]
        raise UserError(f"example {name} has one token: attention has no shape there; prompts need two or more")
    rows = indicators(layer, batch)
    return rows | (of_maps(layer, batch, how.options.length) if how.options.maps else {})


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows also: "tokens", of which maps are taken; LENGTHS_OF of the same tokens in another order where prompts are
    text alone, [b, layer, LENGTHS].
    """
    tokens = batch.mask.sum(1).clamp_max(how.options.length).float()
    return kept | {"tokens": tokens} | by_length_of_shuffled(subject, batch)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    by_head = len(INDICATORS) + 2 + (2 * len(OF_MAPS) + 3) * options.maps
    return subject.n_layers * (by_head * subject.n_heads + len(INDICATORS) + 3 + (2 + len(LENGTHS_OF)) * LENGTHS)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: another forward; a layer's maps of the first tokens, and shuffled twins."""
    maps = 16 * batch * subject.n_heads * min(options.length, positions) * positions if options.maps else 0
    return costs.forward(subject, batch, positions) + maps


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)
