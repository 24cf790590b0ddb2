"""What `latent_lens` found in this model: whether words in context tell what image tokens show, and of which layers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested
from ._latent_tables import MIDDLE, MOST, NAMES_MORE


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """One sentence for each claim."""
    return [_more(tables), _most(tables), _inputs(tables)]


def _more(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:+.0%} {span:+.0%} of the objects' tokens beside the vocabulary lens, mean over states; "
    numbers += "over {control}: {gap:+.0%}"
    return say(
        f"The nearest words in context name what image tokens show more often than the vocabulary lens: {numbers} "
        "{gap_span:+.0%}",
        f"It is not shown that words in context name more of what image tokens show: {numbers} {{gap_span:+.0%}}",
        about="whether words in context name what image tokens show",
        figure=_figure("named", tables),
        side="above",
        **tested(tables, NAMES_MORE),
    )


def _most(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:.0%} {span:.0%}; {control}: {beside:.0%}"
    most = "most of the objects' tokens lie nearest to a word for what they show, on average over the states behind the"
    return say(
        f"M{most[1:]} first: {numbers}",
        f"It is not shown that {most} first: {numbers}",
        about="whether most of the objects' tokens are told by words",
        figure=_figure("controls", tables),
        side="above",
        threshold=0.5,
        **tested(tables, MOST),
    )


def _inputs(tables: Mapping[str, pd.DataFrame]) -> Finding:
    numbers = "{value:.0%} {span:.0%} of the nearest words are of the middle half of the layers; {control}: "
    return say(
        f"What the projector puts in lies nearest to words of middle layers: {numbers}{{beside:.0%}}",
        f"It is not shown that what the projector puts in lies nearest to words of middle layers: {numbers}"
        "{beside:.0%}",
        about="which layers' words the projector's output is like",
        figure="layers",
        side="above",
        threshold=0.5,
        **tested(tables, MIDDLE),
    )


def _figure(name: str, tables: Mapping[str, pd.DataFrame]) -> str:
    """The figure that shows it; where nothing is known of any thing, the first that there is."""
    return name if "named" in tables else "layers"
