"""What `visual_exit` found in this model: behind which depth its answers no longer need the image's tokens."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, rows_with, say, tested
from ._exit_tables import NEEDED


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [
        say(
            "The image has to be read by the first {value:.1f} {span:.1f} layers before its tokens may go without a "
            "change of the answer; {control}: {beside:.1f}",
            "It is not shown that the image is needed for longer than text is: by the first {value:.1f} {span:.1f} "
            "layers; {control}: {beside:.1f}",
            **tested(tables, NEEDED),
            about="how long the image is needed",
            figure="agreement",
            side="above",
        ),
        say(
            "Behind two thirds of the layers the image may go: {value:.0%} {span:.0%} of the answer's tokens stay; "
            "with {control}: {beside:.0%}",
            "It is not shown that the image may go behind two thirds of the layers: {value:.0%} {span:.0%} of the "
            "answer's tokens stay; with {control}: {beside:.0%}",
            **tested(tables, "the image may go"),
            about="where the image may go",
            figure="agreement",
            threshold=0.9,
            side="above",
        ),
        say(
            "The image is read between a quarter and two thirds of the depth: removed that much earlier, it costs "
            "{value:.2f} {span:.2f} nats a token; {control}: {beside:.2f}",
            "It is not shown that the image is needed between a quarter and two thirds of the depth: removed that much "
            "earlier, it costs {value:.2f} {span:.2f} nats a token; {control}: {beside:.2f}",
            **tested(tables, "the image is used before"),
            about="where the image is read",
            figure="loss" if rows_with(tables.get("exits"), measure="loss").size else "agreement",
            side="above",
        ),
    ]
