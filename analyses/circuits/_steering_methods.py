"""The methods sentence of `steering`: of heads that were found or given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._gatherers import DRAWN
from ._steering_tables import SETS

FIT_EXAMPLES = 32


def methods(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    sets = "; ".join(f"{name}: {heads}" for name, heads in zip(SETS, learned.heads, strict=False))
    return (
        "An oracle: it is told which options are wrong. At the last position the chosen heads' attention is put on the "
        f"tokens of {options.targets}, evenly. Heads ({sets}){_sets_said(options)} Controls: as many "
        "other heads of the same layers (of the nearest of them where a layer has too few) with the same targets, and "
        f"the same heads with as many random other tokens ({options.draws} draws each). "
        f"{_beside_said(options, learned)}"
    )


def _sets_said(options: Any) -> str:
    """Behind the sets of heads: where they come from, and which examples are scored."""
    if options.heads is not None:
        return " were given, not found, whatever the sets are called; the examples of all groups are scored."
    return (
        ": inhibition heads have the largest effect on the path to the queries of IOI's movers, the negative mover the "
        f"largest one that raises the answer when patched, on {FIT_EXAMPLES} IOI prompts; those found on this task "
        "raise its logit difference most when steered alone, on held-out examples of one half of its groups. Only "
        "examples of the other half are scored."
    )


def _beside_said(options: Any, learned: Any) -> str:
    """Of the content gatherers and the movers' attention."""
    if options.heads is not None:
        return "This task's movers and content gatherers were not looked for."
    return (
        f"Content gatherers ({learned.gatherers or 'none'}) help most on the path to the queries of this task's movers "
        f"({learned.movers or 'none'}), on the same held-out examples; silent means that what they say is 0 at every "
        f"position. The movers' attention with random heads steered is the mean of {DRAWN} draws."
    )
