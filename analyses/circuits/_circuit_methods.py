"""The methods sentence of `circuits`: of movers that were found or given, and of the stages behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common.frames import of_half
from ._movers import listed


def methods(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Logit difference: answer minus the answer of the corrupt twin, at the last position. Effects are patched "
        "minus clean, in logits: a negative one means that the head carries the answer. A head's z (an MLP's "
        "output) at the last position is taken from the twin; on a path every other head's z is frozen to the clean "
        f"run and MLPs are computed again. The movers ({listed(learned.heads)}), whose queries are receivers, "
        f"{_movers_said(options, learned, fitted_on)}. A stage's circuit: the {options.share:.0%} of heads with the "
        "largest |effect| on one half of the groups, measured on the other."
    ) + _further_said(options, learned, fitted_on)


def _movers_said(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """Where the movers come from, and where what they hear is measured."""
    if options.heads is not None:
        where = "the groups that no stage behind it was chosen on" if learned.selected_on else "all groups"
        return f"were given, not found; the path to their queries is measured on {where}"
    return (
        f"have the largest |effect| on the path to the output on {of_half(learned.selected_on, fitted_on)}; the path "
        "to their queries is measured on the other groups"
    )


def _further_said(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The sentence about the stages behind the movers' queries."""
    if not options.further:
        return ""
    half = "the movers' examples" if options.heads is None else of_half(learned.selected_on, fitted_on)
    return (
        f" Farther back: inhibition heads ({listed(learned.inhibition)}) are those of largest |effect| on the path to "
        f"the movers' queries, induction heads ({listed(learned.induction)}) those of largest |effect| on the path to "
        f"the inhibition heads' values, both on {half}; they are named by their place in the path, not by what they "
        "do. Values and keys are changed at every position."
    )
