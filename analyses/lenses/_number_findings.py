"""What `number_spectrum` found in this model: which module writes the slow waves, and whether the sum needs them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._number_tables import NEED_FAST, NEED_SLOW, SHARES


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """One sentence for each claim."""
    return [_needs_slow(tables), _needs_fast(tables), _shares(tables)]


def _needs_slow(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:.2f} logits {span:.2f} more of its lead than without them in attention; {control}: {beside:.2f}"
    return say(
        f"Slow waves over the numbers are needed in MLPs: without them there the right number loses {numbers}",
        f"It is not shown that slow waves are needed in MLPs more than in attention: the right number loses {numbers}",
        about="whether MLPs need slow waves",
        figure="filters",
        side="above",
        **tested(tables, NEED_SLOW),
    )


def _needs_fast(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:.2f} logits {span:.2f} more of its lead than without them in MLPs; {control}: {beside:.2f}"
    return say(
        f"Fast waves over the numbers are needed in attention: without them there the right number loses {numbers}",
        f"It is not shown that fast waves are needed in attention more than in MLPs: the right number loses {numbers}",
        about="whether attention needs fast waves",
        figure="filters",
        side="above",
        **tested(tables, NEED_FAST),
    )


def _shares(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "has a share larger by {value:.2f} {span:.2f} in MLPs than in attention; {control}: {beside:.2f}"
    return say(
        f"MLPs of the second half write slower waves over the numbers than attention: their slow part {numbers}",
        f"It is not shown that MLPs write slower waves than attention: in the second half the slow part {numbers}",
        about="which module writes slow waves",
        figure="slow",
        side="above",
        **tested(tables, SHARES),
    )
