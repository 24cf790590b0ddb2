"""What `edge_circuits` found in this model: what few edges do alone, and whether more gradients find better ones."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._edge_circuit_tables import BETTER, CLAIMED, FEW, HELPFUL


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Edges are chosen on held-out groups and run on others."""
    share = f"{100 * CLAIMED:.0f} %"
    return [
        say(
            f"{share} of the edges do {{value:.0%}} {{span:.0%}} of the task alone; {{control}}: {{beside:.0%}}",
            f"{share} of the edges do {{value:.0%}} {{span:.0%}} of the task alone, which is not shown to be more "
            "than {control} do ({beside:.0%}; difference {gap:+.0%} {gap_span:+.0%})",
            about="what few edges do alone",
            figure="faithfulness",
            side="above",
            **tested(tables, FEW),
        ),
        say(
            "Five gradients find more faithful circuits of edges than one: CMD differs by {value:+.3f} {span:+.3f}",
            "Five gradients are not shown to find more faithful circuits of edges than one: CMD differs by "
            "{value:+.3f} {span:+.3f}",
            about="which gradients find the edges",
            figure="area",
            side="below",
            **tested(tables, BETTER),
        ),
        say(
            "Edges that help most, without those that hinder, do more than the whole model: CPR {value:.2f} "
            "{span:.2f}; {control}: {beside:.2f}",
            "Edges that help most are not shown to do both more than the whole model (CPR above 1) and more than "
            "{control}: CPR {value:.2f} {span:.2f}, control {beside:.2f}",
            about="what the most helpful edges do",
            figure="area",
            threshold=1.0,
            side="above",
            **tested(tables, HELPFUL),
        ),
    ]
