"""What `neurons` found in this model: whether languages have neurons of their own, where they lie, what for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, say, tested
from ._explained import CLAIM

Tables = Mapping[str, pd.DataFrame]
CHANNELS = "channels at the ends"
# Claim: whose neurons, and what they are active at.
PICTURES = {
    "neurons of one kind of picture": ("the vision tower", "patches"),
    "image tokens of one kind": ("the decoder", "image tokens"),
}


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested; where labels have pictures, of these."""
    if "tested" not in tables:
        return []
    pictures = [_of_pictures(tables, claim, *words) for claim, words in PICTURES.items() if _measured(tables, claim)]
    channels = [_channels(tables)] if _measured(tables, CHANNELS) else []
    return [*(pictures or _of_text(tables)), *channels]


def _of_text(tables: Tables) -> list[Finding]:
    return [_hurts(tables), _one_label(tables), _ends(tables), _explains(tables)]


def _measured(tables: Tables, claim: str) -> bool:
    row = one_row(tables["tested"], claim=claim, than="")
    return row is not None and bool(np.isfinite(row["value"]))


def _of_pictures(tables: Tables, claim: str, whose: str, where: str) -> Finding:
    said = (
        f"{where} of their own kind than of the others: {{value:.0%}} {{span:.0%}} more, chosen on other pictures; "
        "{control}: {beside:.0%}"
    )
    return say(
        f"Kinds of pictures have neurons of their own in {whose}, active at more {said}",
        f"It is not shown that kinds of pictures have neurons of their own in {whose}, active at more {said}",
        **tested(tables, claim),
        about=f"whether kinds of pictures have neurons of their own in {whose}",
        figure="layers",
        threshold=0.1,
        side="above",
    )


def _channels(tables: Tables) -> Finding:
    return say(
        "Channels of queries and keys that serve one label alone lie at the ends more than MLP neurons: the outer half "
        "of the layers holds {value:.0%} {span:.0%} of what they matter more to their label by; {control}: "
        "{beside:.0%}",
        "It is not shown that channels of queries and keys that serve one label alone lie at the ends more than MLP "
        "neurons: the outer half of the layers holds {value:.0%} {span:.0%} of what they matter more to their label "
        "by; {control}: {beside:.0%}",
        **tested(tables, CHANNELS),
        about="where channels of queries and keys that serve one label lie",
        figure="important_layers",
        threshold=0.5,
        side="above",
    )


def _hurts(tables: Tables) -> Finding:
    return say(
        "A language (or domain) needs its own neurons: without them its texts lose {value:.3f} {span:.3f} nats a token "
        "more than without those of another one; {control}: {beside:.3f}",
        "It is not shown that a language (or domain) needs its own neurons more than those of another one: "
        "{value:+.3f} {span:+.3f} nats a token; {control}: {beside:+.3f}",
        **tested(tables, "removal hurts its label"),
        about="what neurons of one language or domain are for",
        figure="removal" if "removal" in tables else "layers",
        side="above",
    )


def _one_label(tables: Tables) -> Finding:
    return say(
        "Languages (or domains) have neurons of their own: chosen on other documents, they are active on {value:.0%} "
        "{span:.0%} more of their own tokens than of the others'; {control}: {beside:.0%}",
        "It is not shown that languages (or domains) have neurons of their own: chosen on other documents, they are "
        "active on {value:.0%} {span:.0%} more of their own tokens than of the others'; {control}: {beside:.0%}",
        **tested(tables, "neurons of one label"),
        about="whether languages or domains have neurons of their own",
        figure="layers",
        threshold=0.1,
        side="above",
    )


def _explains(tables: Tables) -> Finding:
    return say(
        "A language (or domain) explains its neurons: chosen on other documents, they score {value:.2f} {span:.2f} σ "
        "higher for its own texts than for those of another one; {control}: {beside:.2f}",
        "It is not shown that a language (or domain) explains its neurons: chosen on other documents, they score "
        "{value:+.2f} {span:+.2f} σ for its own texts over those of another one; {control}: {beside:+.2f}",
        **tested(tables, CLAIM),
        about="how far a language or domain explains its neurons",
        figure="explained" if "explained" in tables else "layers",
        side="above",
    )


def _ends(tables: Tables) -> Finding:
    """Both shares are told: the claim is about the smaller one."""
    first, last = (one_row(tables.get("ends"), part=part, control="") for part in ("first quarter", "last quarter"))
    shares: dict[str, Any] = {
        "first": np.nan if first is None else first["value"],
        "last": np.nan if last is None else last["value"],
    }
    return say(
        "Neurons of one language or domain lie at both ends: the first quarter of the layers holds {first:.0%} of what "
        "they are more active by, the last {last:.0%}; of the smaller share, {control}: {beside:.0%}",
        "It is not shown that neurons of one language or domain lie at both ends: the first quarter of the layers "
        "holds {first:.0%} of what they are more active by, the last {last:.0%}; of the smaller share, {control}: "
        "{beside:.0%}",
        **tested(tables, "at the ends"),
        about="where neurons of one language or domain lie",
        figure="layers",
        threshold=0.25,
        side="above",
        **shares,
    )
