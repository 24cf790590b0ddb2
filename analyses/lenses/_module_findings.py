"""What `module_lens` found in this model: whether image tokens are sure of words, who makes text so."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._module_tables import LESS_SURE, MAKE_SURE


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """One sentence for each claim."""
    return [_image(tables), _mlp(tables)]


def _image(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:+.2f} nats {span:+.2f} beside text tokens behind the blocks of the second half; {control}: "
    return say(
        f"The lens is less sure of a word at image tokens: entropy {numbers}{{beside:+.2f}}",
        f"It is not shown that the lens is less sure at image tokens: entropy {numbers}{{beside:+.2f}}",
        about="how sure the lens is at image tokens",
        figure="block",
        side="above",
        **tested(tables, LESS_SURE),
    )


def _mlp(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:+.2f} nats {span:+.2f} a layer in the second half; {control}: {beside:+.2f}"
    return say(
        f"MLPs make text tokens surer of a word: entropy {numbers}",
        f"It is not shown that MLPs make text tokens surer of a word: entropy {numbers}",
        about="whether MLPs make text tokens surer",
        figure="block",
        side="below",
        **tested(tables, MAKE_SURE, "below"),
    )
