"""What `jacobian_lens` found in this model: how much earlier the answer is read, and whether gradients name it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.controls import TURNED
from ..common.findings import Finding, rows_with, say, tested
from ._jacobian_tables import EARLIER, JACOBIAN, LOGIT, NAMED, TOP
from ._onset import onset


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """One sentence for each claim, beside its control."""
    return [_earlier(tables), _named(tables)]


def _earlier(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = (
        "log2 of its rank {value:+.2f} {span:+.2f} beside the logit lens; {control}: {beside:+.2f}. Half of the "
        f"prompts have it among the first {TOP} words from {{own}} on (logit lens: {{plain}}, turned: {{turned}})"
    )
    return say(
        f"The Jacobian lens reads the answer earlier than the logit lens: over the middle half of the states {numbers}",
        f"It is not shown that the Jacobian lens halves the answer's rank in the middle half of the states: {numbers}",
        **tested(tables, EARLIER, "below"),
        about="what the Jacobian lens reads earlier",
        figure="rank",
        threshold=-1.0,
        side="below",
        own=_from(tables, JACOBIAN),
        plain=_from(tables, LOGIT),
        turned=_from(tables, JACOBIAN, TURNED),
    )


def _from(tables: Mapping[str, pd.DataFrame], lens: str, control: str = "") -> str:
    """The state from which on the median rank is among the first."""
    return onset(rows_with(tables.get("lenses"), lens=lens, measure="rank", control=control), "state", most=TOP)


def _named(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "in {value:.0%} {span:.0%} of the states of the second half before the last; {control}: {beside:.0%}"
    return say(
        f"The gradient of the answer's loss, read as words, has the answer among its first {TOP} {numbers}",
        f"It is not shown that gradients name the answer: it is among the first {TOP} words of its loss' gradient "
        f"{numbers}",
        **tested(tables, NAMED),
        about="whether gradients name the answer",
        figure="gradient",
        threshold=0.5,
        side="above",
    )
