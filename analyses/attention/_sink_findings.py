"""What `sinks` found in this model: how much attention the first token takes, what marks a sink, sinks in images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row, unsolved
from ..common.findings import Finding, rows_with, say
from . import _visual_sinks
from ._sink_summary import AGREE, FIRST, HIDDEN, MASKING, MASSIVE, SEPARATION, SHUFFLED, UNIFORM, VISUAL, blunt_tau

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """In images the visual sinks first; of text the first token, the other sinks and the dimensions that mark them."""
    visual = [_visual(tables), _masked(tables)] if "visual" in tables else []
    return [one for one in (*visual, _first(tables), _agreeing(tables), _hidden(tables)) if one is not None]


def _row(tables: Tables, measure: str, against: str = "") -> pd.Series | None:
    return one_row(tables.get("summary"), measure=measure, against=against)


def _blunt(tables: Tables) -> str:
    return blunt_tau(tables["threshold"], _row(tables, SEPARATION))


def _first(tables: Tables) -> Finding | None:
    row = _row(tables, FIRST)
    if row is None or not row["n"]:
        return None
    return say(
        "The first token takes {value:.0%} {span:.0%} of a head's attention in the middle half of the layers "
        "({control}: {beside:.0%}){counted}",
        "The first token takes no more attention than {control} would give it: {value:.0%} {span:.0%} against "
        "{beside:.0%}",
        row,
        about="the first token",
        figure="first-share",
        margin=_row(tables, FIRST, UNIFORM),
        control=UNIFORM,
        side="above",
        counted=_counted(tables),
    )


def _counted(tables: Tables) -> str:
    """How many tokens draw attention, and from which layer on it is about one; "" where it never is."""
    counts = rows_with(tables.get("agreement"), control="")
    counts = counts[counts["received_sinks"].notna()] if len(counts) else counts
    several = counts[counts["received_sinks"] >= 1.5] if len(counts) else counts
    if several.empty or several["state"].max() == counts["state"].max():
        return ""
    most = several.iloc[int(several["received_sinks"].argmax())]
    since = int(several["state"].max()) + 1
    told = f"about {most['received_sinks']:.0f} tokens draw attention in layer {int(most['state'])}"
    return f"; {told}, one from layer {since} on"


def _agreeing(tables: Tables) -> Finding | None:
    """The massive dimensions, by whether the tokens that they mark are those that receive attention."""
    row, massive = _row(tables, AGREE), _row(tables, MASSIVE)
    if row is None:
        return None
    named = rows_with(tables.get("dimensions"))
    dimensions = " and ".join(str(int(d)) for d in sorted(named["dimension"].unique())) if len(named) else "none"
    return say(
        "Massive dimensions ({dimensions}; in {share:.0%} of the prompts) mark the tokens that receive attention: "
        "Jaccard {value:.2f} {span:.2f}, {control} {beside:.2f}",
        "Massive dimensions ({dimensions}) do not mark the tokens that receive attention: Jaccard {value:.2f} "
        "{span:.2f}, {control} {beside:.2f}",
        row,
        about="what marks a sink",
        figure="agreement",
        margin=_row(tables, AGREE, SHUFFLED),
        control=SHUFFLED,
        side="above",
        untestable=_blunt(tables),
        dimensions=dimensions,
        share=float("nan") if massive is None else float(massive["value"]),
    )


def _hidden(tables: Tables) -> Finding | None:
    row = _row(tables, HIDDEN)
    if row is None or not row["n"]:
        return None
    return say(
        "The first token is not the only sink: in a prompt {value:.0%} {span:.0%} of the heads have another",
        "It is not shown that other tokens than the first are sinks: in a prompt {value:.0%} {span:.0%} of the heads "
        "have one",
        row,
        about="hidden sinks",
        figure="hidden-map",
        threshold=0.05,
        side="above",
    )


def _visual(tables: Tables) -> Finding:
    """How many image tokens are sinks, and whether they lie at fixed places."""
    places, row = _fixed_places(tables), _row(tables, VISUAL)
    lie = ", at fixed places: {places}" if places else ""
    return say(
        f"{{value:.1%}} {{span:.1%}} of the image tokens are sinks in the middle half of the layers{lie}",
        "Image tokens are hardly sinks: {value:.1%} {span:.1%} of them in the middle half of the layers",
        row,
        about="sinks in images",
        figure="patches" if places else "visual-sinks",
        threshold=0.01,
        side="above",
        untestable=_blunt(tables),
        places=places,
    )


def _fixed_places(tables: Tables) -> str:
    """The patches whose mean φ over images lies above τ with its interval: where vision would move them, they stay."""
    patches, tau = rows_with(tables.get("patches")), tables["threshold"]["value"].dropna()
    if patches.empty or tau.empty:
        return ""
    above = patches[patches["lower"] >= float(tau.iloc[0])].sort_values("value", ascending=False)
    return ", ".join(f"({int(p['row'])}, {int(p['column'])})" for _, p in above.head(4).iterrows())


def _masked(tables: Tables) -> Finding | None:
    """What masking the sinks costs beside as many random image tokens."""
    if "masking" not in tables:
        return None
    row = _visual_sinks.masked_at_tau(tables["masking"])
    why = _blunt(tables) or unsolved(_row(tables, MASKING, "guessing")) or _visual_sinks.nothing_masked(row)
    accuracy: dict[str, Any] = {"measure": "accuracy", "learned": True}
    kinds = ("", "random image tokens", "nothing masked")
    known = [one_row(tables["masking"], **accuracy, control=control) for control in kinds]
    masked, random, plain = (float("nan") if one is None else float(one["value"]) for one in known)
    more = row is not None and row["value"] < 0
    return say(
        f"Visual sinks carry {'more' if more else 'less'} of the answer than other image tokens: without the "
        "{count:.2g} of them accuracy is {masked:.0%}, without as many random ones {random:.0%}, as it is {plain:.0%}",
        "Masking visual sinks is not told from masking random image tokens: accuracy {masked:.0%} against {random:.0%} "
        "(difference {value:+.0%} {span:+.0%})",
        row,
        about="what visual sinks do",
        figure="masking",
        untestable=why,
        count=0.0 if row is None else float(row["count"]),
        masked=masked,
        random=random,
        plain=plain,
    )
