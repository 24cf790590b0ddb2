"""What `learned_lenses` found in this model: how much nearer to the output a learned lens is, and than what."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, minus, say
from ._learned_tables import BEST_GAP, BIAS_RATIO, CONSTANT_RATIO, TUNED_RATIO

CONSTANT = "the corpus' mean output"


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the lenses that were learned."""
    compared = tables.get("compared")
    tuned, constant, bias, gap = (
        one_row(compared, measure=measure) for measure in (TUNED_RATIO, CONSTANT_RATIO, BIAS_RATIO, BEST_GAP)
    )
    made = [] if tuned is None or constant is None else [_nearer(tuned, constant)]
    if bias is not None:
        made.append(_bias(bias))
    return made if gap is None else [*made, _heads(gap)]


def _nearer(tuned: pd.Series, constant: pd.Series) -> Finding:
    """The tuned lens' KL as a share of the logit lens' and, as its control, as a share of a constant's."""
    share = {"value": 1.0, "lower": 1.0, "upper": 1.0, "n": constant["n"], "n_groups": constant["n_groups"]}
    return say(
        "In the middle half of the states the tuned lens is {times:.2g} times as near to the output as the logit lens "
        "(KL × {value:.2f} {span:.2f}), and {ahead:.2g} times as near as {control}, which is {already:.2g} times as "
        "near itself",
        "It is not shown that the tuned lens reads more: its KL is {value:.2f} {span:.2f} of the logit lens', and "
        "{share:.2f} of that of {control}, which knows nothing of the prompt",
        tuned,
        about="how much a learned lens reads",
        figure="kl",
        margin=minus(constant, share),
        control=CONSTANT,
        threshold=1.0,
        side="below",
        times=1 / tuned["value"],
        ahead=1 / constant["value"],
        already=constant["value"] / tuned["value"],
        share=float(constant["value"]),
    )


def _bias(row: pd.Series) -> Finding:
    return say(
        "The logit lens is biased, the tuned lens less: the KL of its mean output to the model's is {value:.2f} "
        "{span:.2f} of the logit lens'",
        "It is not shown that the tuned lens is less biased: {value:.2f} {span:.2f} of the logit lens' marginal KL",
        row,
        about="the bias of lenses",
        figure="bias",
        threshold=1.0,
        side="below",
    )


def _heads(row: pd.Series) -> Finding:
    return say(
        "Lenses learned for each head are {nearer} to what a layer's heads say than the best plain unembedding: KL "
        "{value:+.2f} nats {span:+.2f}",
        "Lenses learned for each head are not told from the best plain unembedding: KL {value:+.2f} nats {span:+.2f}",
        row,
        about="what learned lenses of heads add",
        figure="heads",
        nearer="nearer" if row["value"] < 0 else "farther",
    )
