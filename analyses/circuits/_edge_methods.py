"""The methods sentence of `edges`: of edges and movers that were found or given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common.frames import of_half
from ._movers import listed


def methods(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Logit difference: answer minus the answer of the corrupt twin. Estimate of an edge: what its writer adds to "
        "the residual stream in the twin's run and not in the clean one, times the gradient at the reader's own input "
        "(before its norm), summed over positions; 1 step takes the gradient at the clean run, 5 steps its mean on the "
        f"way to the twin's embeddings. {_chosen_said(options, learned, fitted_on)} Exact "
        "effects, patched minus clean: the path from each head to the "
        f"output, and to the queries of the movers ({listed(learned.heads)}) at the last position, all other "
        "heads and all MLPs frozen to the clean run."
    )


def _chosen_said(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """Which of edges and movers were given, and where the others come from."""
    half = f"on {of_half(learned.selected_on, fitted_on)}"
    edges, of = f"The {len(learned.edges)} edges", "are measured on the other groups."
    if options.heads is None and options.edges is None:
        return f"{edges} are the strongest by 5 steps; they, and the movers, were chosen {half}, and {of}"
    if options.heads is None:
        return f"{edges} were given, not found; the movers were chosen {half}, and both {of}"
    if options.edges is None:
        return f"{edges} are the strongest by 5 steps {half}; the movers were given, not found; both {of}"
    return f"{edges} and the movers were given, not found; both are measured on all groups."
