"""What `patchscope` found in this model: whether it can say itself what its states hold."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._patchscope_tables import NAMED


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the number of the table tested."""
    numbers = "{value:+.1%} {span:+.1%} of the prompts and layers beside the logit lens; {control}: {beside:+.1%}"
    return [
        say(
            f"The model can say what its states hold: put into another prompt, they name their next token in {numbers}",
            "It is not shown that the model can say what its states hold: put into another prompt, they name their "
            f"next token in {numbers}",
            **tested(tables, NAMED),
            about="whether the model can say what its states hold",
            figure="named",
            side="above",
        )
    ]
