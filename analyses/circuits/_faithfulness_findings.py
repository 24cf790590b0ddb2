"""What `faithfulness` found in this model: what a tenth of its heads does alone, where, and whether gradients tell."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, place, rows_with, say, tested, turned
from ._faithfulness_tables import GRADIENTS_BAR

ABOUT = "what the circuit does alone"
SITES = {"attn_out": "The attention of layer {layer}", "mlp_out": "MLP {layer}", "z": "Head {layer}.{head}"}


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """The circuit is chosen on held-out groups and scored on others."""
    faithful, gradients = tested(tables, "faithful"), tested(tables, "gradients")
    made = [
        say(
            "A tenth of the heads does {value:.0%} {span:.0%} of the task alone; {control}: {beside:.0%}",
            "A tenth of the heads does {value:.0%} {span:.0%} of the task alone, which is not shown to be more than "
            "{control} do ({beside:.0%}; difference {gap:+.0%} {gap_span:+.0%})",
            about=ABOUT,
            figure="faithfulness",
            side="above",
            **faithful,
        ),
        say(
            "Gradients find the circuit: their top 5 % of heads hold {value:.0%} {span:.0%} of the effect of the exact "
            "top 5 %",
            "It is not shown that gradients find the circuit: their top 5 % of heads hold {value:.0%} {span:.0%} of "
            "the effect of the exact top 5 %; more than {threshold:.0%} is asked for",
            about="how well gradients find the circuit",
            figure="agreement",
            threshold=GRADIENTS_BAR,
            side="above",
            **gradients,
        ),
    ]
    positions = rows_with(tables.get("positions"))
    if faithful.get("untestable") or positions.empty:
        return made
    return [*made, _where(positions)]


def _where(positions: pd.DataFrame) -> Finding:
    """The place of the prompt before the last position at which most is carried, whatever part does it."""
    before = positions[(positions["position"] != "last") & (positions["site"] != "z")]
    before = before if len(before) else positions
    row = before.iloc[int(before["value"].abs().argmax())]
    own = turned(row)
    part = SITES[row["site"]].format(layer=int(row["layer"]), head=row.get("head", ""))
    return say(
        "{part} does most before the last position, at the {where}: patched there from the twin, the answer's lead "
        "changes by {value:.2f} logits {span:.2f}",
        "Before the last position no part is told from nothing: {part} at the {where}, {value:.2f} logits {span:.2f}",
        turned(own),
        about=ABOUT,
        figure="places",
        among=len(before),
        heads=place(row) if row["site"] == "z" else f"L{int(row['layer'])}",
        part=part,
        where=str(row["position"]).replace("_", " "),
    )
