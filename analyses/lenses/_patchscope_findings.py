"""What `patchscope` found in this model: whether it can say itself what its states hold."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, rows_with, say, tested
from ._onset import onset
from ._patchscope_tables import LOGIT, NAMED, PATCHED


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the number of the table tested."""
    numbers = (
        "{value:+.1%} {span:+.1%} of the prompts and layers beside the logit lens; {control}: {beside:+.1%}. More than "
        "half of the prompts are named from {own} on (logit lens: {plain})"
    )
    return [
        say(
            f"The model can say what its states hold: put into another prompt, they name their next token in {numbers}",
            "It is not shown that the model can say what its states hold: put into another prompt, they name their "
            f"next token in {numbers}",
            **tested(tables, NAMED),
            about="whether the model can say what its states hold",
            figure="named",
            side="above",
            own=_from(tables, PATCHED),
            plain=_from(tables, LOGIT),
        )
    ]


def _from(tables: Mapping[str, pd.DataFrame], way: str) -> str:
    """The layer from which on more than half of the prompts are named."""
    return onset(rows_with(tables.get("named"), way=way, measure="named", control=""), "layer", least=0.5)
