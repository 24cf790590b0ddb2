"""What `image_paths` found: whether the answer's heads hear at the picture or at the text, and how deep each acts."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._image_path_tables import DEEPER, THROUGH

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    return [_through(tables), _deeper(tables)]


def _through(tables: Tables) -> Finding:
    return say(
        "The heads that write the answer hear the others at the text: {value:.0%} {span:.0%} of the paths' effect runs "
        "through the picture's tokens; {control}: {beside:.0%}",
        "It is not shown that the heads that write the answer hear the others at the text: {value:.0%} {span:.0%} of "
        "the paths' effect runs through the picture's tokens; {control}: {beside:.0%}",
        **tested(tables, THROUGH, "below"),
        about="where the answer's heads hear the others",
        figure="paths",
        threshold=0.5,
        side="below",
    )


def _deeper(tables: Tables) -> Finding:
    return say(
        "Attention at the picture's tokens acts {value:.1f} {span:.1f} layers before attention at the last position; "
        "{control}: {beside:.1f}",
        "It is not shown that attention at the picture's tokens acts before attention at the last position, and before "
        "that at the text's: mean layers differ by {value:.1f} {span:.1f}; {control}: {beside:.1f}",
        **tested(tables, DEEPER),
        about="how deep attention acts at each place",
        figure="layers",
        side="above",
    )
