"""What `modality` found in this model: what of its attention on the image is more than the rest of a sink."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_early(tables), _per_key(tables), _heads(tables), _opinions(tables)]


def _early(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "The question looks at the image {where} layers: without the first token, the first third of the layers gives "
        "it {value:+.2f} {span:+.2f} times its uniform share compared with the last third",
        "It is not shown that the question looks at the image more in early layers or in late ones: {value:+.2f} "
        "{span:+.2f} times its uniform share, first third of the layers minus the last",
        **tested(tables, "the image early"),
        about="where in depth the image is looked at",
        figure="shares",
        where=_side(tables, "the image early", "more in late", "more in early"),
    )


def _per_key(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "In the middle layers the question gives an image token {where} attention than a token of text, the first left "
        "out: ln of their ratio {value:+.2f} {span:+.2f}",
        "It is not shown that an image token gets more or less attention than a token of text: ln of their ratio "
        "{value:+.2f} {span:+.2f}",
        **tested(tables, "text over image, per key"),
        about="attention by key",
        figure="shares",
        where=_side(tables, "text over image, per key", "less", "more"),
    )


def _heads(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "Of the tenth of the heads that look most at the image against all other, {value:.0%} {span:.0%} more than by "
        "chance are still in that tenth when the first token is left out",
        "It is not shown that heads with much attention on the image do more than not attend to the first token: "
        "{value:.0%} {span:.0%} of them, above chance, remain when it is left out",
        **tested(tables, "visual heads"),
        about="which heads look at the image",
        figure="heads",
        side="above",
    )


def _opinions(tables: Mapping[str, pd.DataFrame]) -> Finding:
    return say(
        "A wrong opinion in front of the question takes attention from the image: {value:+.3f} {span:+.3f} of all "
        "attention at the last position; {control}: {beside:+.3f}",
        "It is not shown that a wrong opinion takes attention from the image: {value:+.3f} {span:+.3f} of all "
        "attention at the last position; {control}: {beside:+.3f}",
        **tested(tables, "opinions take attention away", "below"),
        about="what a user's opinion does",
        figure="opinions" if "opinions" in tables else "shares",
        side="below",
    )


def _side(tables: Mapping[str, pd.DataFrame], claim: str, below: str, above: str) -> str:
    rows = tables["tested"]
    values = rows.loc[(rows["claim"] == claim) & (rows["than"] == ""), "value"]
    return below if float(values.iloc[0]) < 0 else above
