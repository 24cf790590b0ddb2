"""What `collapse` found in this model: whether it still sees one repetition more."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, rows_with, say, tested
from ._collapse_tables import LESS, SEEN


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    times = rows_with(tables.get("distances"))["times"] if "distances" in tables else pd.Series([0])
    few, many = (str(int(count)) for count in (times.min(), times.max()))
    return [_less(tables, few, many), _seen(tables, few, many)]


def _less(tables: Mapping[str, pd.DataFrame], few: str, many: str) -> Finding:
    return say(
        "One repetition more is seen less and less: behind {many} the last state moves by {value:.0%} {span:.0%} of "
        "what it moves by behind {few}; {control}: {beside:.0%}",
        "It is not shown that this model, more than others, sees one repetition more less and less: behind {many} the "
        "last state moves by {value:.0%} {span:.0%} of what it moves by behind {few}; {control}: {beside:.0%}",
        **tested(tables, LESS, "below"),
        about="how one repetition more is seen",
        figure="final",
        threshold=0.5,
        side="below",
        few=few,
        many=many,
    )


def _seen(tables: Mapping[str, pd.DataFrame], few: str, many: str) -> Finding:
    return say(
        "Another last token is seen as well behind a long run: behind {many} it moves the last state by {value:.0%} "
        "{span:.0%} of what it does behind {few}; {control}: {beside:.0%}",
        "It is not shown that a long run hides repetitions rather than any token: behind {many} another last token "
        "moves the last state by {value:.0%} {span:.0%} of what it does behind {few}; {control}: {beside:.0%}",
        **tested(tables, SEEN),
        about="whether another last token is seen",
        figure="final",
        threshold=0.5,
        side="above",
        few=few,
        many=many,
    )
