"""What `routes` found in this model: how sparse they are, what of the sink they keep, which heads they lead through."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_causal(tables), _knockout(tables), _few(tables), _sink(tables), _previous(tables)]


def _knockout(tables: Tables) -> Finding:
    return say(
        "Routes keep what the last token needs: over layers and kinds of tokens what they keep goes with what cutting "
        "costs the answer, rank correlation {value:.2f} {span:.2f}; {control}: {beside:.2f}",
        "What routes keep of other tokens at the last one goes with what cutting costs the answer by a rank "
        "correlation of {value:.2f} {span:.2f}; {control}: {beside:.2f}. That this is both above .3 and above the "
        "control's is not shown",
        **tested(tables, "routes agree with knockout"),
        about="whether routes agree with knockout",
        figure="knockout" if "knockout" in tables else "edges",
        threshold=0.3,
        side="above",
    )


def _few(tables: Tables) -> Finding:
    return say(
        "Routes are sparse: they keep {value:.1%} {span:.1%} of the pairs of tokens that attention could connect; "
        "{control}: {beside:.1%}",
        "Routes keep {value:.1%} {span:.1%} of the pairs of tokens that attention could connect; {control}: "
        "{beside:.1%}. That these are both fewer than 20 % and fewer than the control's is not shown",
        **tested(tables, "few edges", "below"),
        about="how sparse routes are",
        figure="edges",
        threshold=0.2,
        side="below",
    )


def _sink(tables: Tables) -> Finding:
    return say(
        "Routes leave the first token out: {value:.0%} {span:.0%} of the importance that they keep from other tokens "
        "is its; {control}: {beside:.0%}",
        "Of the importance that routes keep from other tokens {value:.0%} {span:.0%} is the first one's; {control}: "
        "{beside:.0%}. That this is both less than half and less than of attention is not shown",
        **tested(tables, "routes leave the sink", "below"),
        about="what routes keep of the first token",
        figure="first",
        threshold=0.5,
        side="below",
    )


def _previous(tables: Tables) -> Finding:
    return say(
        "Routes lead through heads that look at the token before: those with most importance give it {value:.0%} "
        "{span:.0%} of their attention; {control}: {beside:.0%}",
        "The heads with most importance give the token before {value:.0%} {span:.0%} of their attention; {control}: "
        "{beside:.0%}. That this is both more than 20 % and more than the control's is not shown",
        **tested(tables, "previous-token heads"),
        about="whether routes lead through previous-token heads",
        figure="presence",
        threshold=0.2,
        side="above",
    )


def _causal(tables: Tables) -> Finding:
    return say(
        "Routes find heads that matter: those with most importance have {value:.1f} {span:.1f} times an even share of "
        "the patching effect, as a gradient estimates it; {control}: {beside:.1f}",
        "The heads with most importance have {value:.1f} {span:.1f} times an even share of the patching effect, as a "
        "gradient estimates it; {control}: {beside:.1f}. That routes find what matters better than the control is "
        "not shown",
        **tested(tables, "routes find causal heads"),
        about="whether routes find heads that matter",
        figure="agreement" if "agreement" in tables else "heads",
        threshold=2.0,
        side="above",
    )
