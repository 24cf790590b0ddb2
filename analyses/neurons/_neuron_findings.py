"""What `neurons` found in this model: whether labels have neurons of their own, where they lie, what they are for."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    return [_hurts(tables), _one_label(tables), _ends(tables)] if "tested" in tables else []


def _hurts(tables: Tables) -> Finding:
    return say(
        "Texts need the neurons of their own label: without them they lose {value:.3f} {span:.3f} nats a token more "
        "than without those of another one; {control}: {beside:.3f}",
        "It is not shown that texts need the neurons of their own label more than those of another one: "
        "{value:+.3f} {span:+.3f} nats a token; {control}: {beside:+.3f}",
        **tested(tables, "removal hurts its label"),
        about="what neurons of one label are for",
        figure="removal" if "removal" in tables else "layers",
        side="above",
    )


def _one_label(tables: Tables) -> Finding:
    return say(
        "Labels have neurons of their own: chosen on other documents, they are active on {value:.0%} {span:.0%} more "
        "of their label's tokens than of the others'; {control}: {beside:.0%}",
        "It is not shown that labels have neurons of their own: chosen on other documents, they are active on "
        "{value:.0%} {span:.0%} more of their label's tokens than of the others'; {control}: {beside:.0%}",
        **tested(tables, "neurons of one label"),
        about="whether labels have neurons of their own",
        figure="layers",
        side="above",
    )


def _ends(tables: Tables) -> Finding:
    return say(
        "Neurons of one label lie at the ends: {value:.0%} {span:.0%} of what they are more active by for their label "
        "lies in the first and last quarter of the layers; {control}: {beside:.0%} of the neurons",
        "It is not shown that neurons of one label lie at the ends: {value:.0%} {span:.0%} of what they are more "
        "active by for their label lies in the first and last quarter of the layers; {control}: {beside:.0%} of the "
        "neurons",
        **tested(tables, "at the ends"),
        about="where neurons of one label lie",
        figure="layers",
        threshold=0.5,
        side="above",
    )
