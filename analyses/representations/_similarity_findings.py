"""What `similarity` found in this model: where image and text, or languages, lie together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.claims import one_row
from ..common.findings import Finding, rows_with, say, tested
from ._similarity_tested import CONTENT, ELSEWHERE, NEARER, PAGES, RISES, SHARED

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested, those that the task asks for."""
    made = {RISES: _rises, SHARED: _shared, NEARER: _nearer, PAGES: _pages}
    rows = {name: one_row(tables.get("tested"), claim=name, than="") for name in made}
    asked = [name for name, row in rows.items() if row is not None and row["untestable"] not in ELSEWHERE]
    return [made[name](tables) for name in asked]


def _rises(tables: Tables) -> Finding:
    return say(
        "Image and text states grow alike: their cosine (different examples) is {value:+.2f} {span:+.2f} higher in the "
        "middle half of the states than in the first quarter; {control}: {beside:+.2f}",
        "It is not shown that image and text states grow alike: their cosine (different examples) is {value:+.2f} "
        "{span:+.2f} higher in the middle half of the states than in the first quarter; {control}: {beside:+.2f}",
        **tested(tables, RISES),
        about="whether image and text states grow alike",
        figure="curves",
        side="above",
    )


def _shared(tables: Tables) -> Finding:
    return say(
        "An image's state is more like its own text's than like other texts': in state {state}, chosen on half of the "
        "groups, by {value:+.2f} {span:+.2f} (cosine, without the sets' means); {control}: {beside:+.2f}",
        "It is not shown that an image's state is more like its own text's than like other texts': in state {state}, "
        "chosen on half of the groups, by {value:+.2f} {span:+.2f} (cosine, without the sets' means); {control}: "
        "{beside:+.2f}",
        **tested(tables, SHARED),
        about="what an image and its text share",
        figure="content",
        side="above",
        **_state(tables, SHARED),
    )


def _nearer(tables: Tables) -> Finding:
    return say(
        "Texts lie nearer to other texts than to images in every state: also in state {state}, where on half of the "
        "groups they do least, by {value:+.2f} {span:+.2f} (cosine); {control}: {beside:+.2f}",
        "It is not shown that texts lie nearer to other texts than to images in every state: in state {state}, where "
        "on half of the groups they do least, by {value:+.2f} {span:+.2f} (cosine); {control}: {beside:+.2f}",
        **tested(tables, NEARER),
        about="whether texts stay apart from images",
        figure="curves",
        side="above",
        **_state(tables, NEARER),
    )


def _pages(tables: Tables) -> Finding:
    paired = rows_with(tables.get("likeness"), measure=CONTENT).size > 0
    return say(
        "The same page in two languages is more alike in the middle: what it shares there is {value:+.2f} {span:+.2f} "
        "(cosine over that of different pages) above what it shares at both ends; {control}: {beside:+.2f}",
        "It is not shown that the same page in two languages is more alike in the middle: what it shares there is "
        "{value:+.2f} {span:+.2f} (cosine over that of different pages) above what it shares at both ends; {control}: "
        "{beside:+.2f}",
        **tested(tables, PAGES),
        about="where the same page in two languages is alike",
        figure="content" if paired else "curves",
        side="above",
    )


def _state(tables: Tables, claim: str) -> dict[str, Any]:
    """The state that was chosen, in words."""
    row = one_row(tables.get("tested"), claim=claim, than="")
    known = row is not None and row["state"] == row["state"]
    return {"state": str(int(row["state"])) if row is not None and known else ""}
