"""A figure as a page holds it: its data as JSON, its words, its table, its static images."""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.io import json as plotly_json

from ..charts.style import layout_of, meta_of
from .runs import Run
from .tables import table_block
from .verdicts import drawn

MODE_BAR, SWITCH = 44, 66  # px above the panels' titles
DIGITS = 5  # of a plotted value: less than a pixel, and half the weight
KEY_HEIGHT = 450  # px of the first figure, so that the first screen has room for what it is about


def figure_block(name: str, figure: go.Figure, run: Run | None, images: Mapping[str, str] | None = None) -> dict:
    """What the template needs for one figure. images: kind ("svg", "pdf", …) -> address of a static image."""
    meta = meta_of(figure)
    table = None
    if run is not None and meta.get("table") in run.tables:
        table = table_block(meta["table"], run.tables[meta["table"]], meta.get("where"))
    return {
        "id": f"fig-{name}",
        "title": meta.get("title") or name,
        "caption": " ".join(text for _, text in said(meta)),
        "said": said(meta),
        "height": int(layout_of(figure).height or KEY_HEIGHT),
        "min_width": int(meta.get("min_width", 0)),
        "json": figure_json(without_words(figure)),
        "address": (meta.get("address") or {}).get("kind", ""),
        "theme": meta.get("theme"),
        "table": table,
        "table_key": (meta.get("table"), str(meta.get("where"))),
        "images": images or {},
        "claims": drawn([c for c in run.claims if c.get("name") in meta.get("claims", ())] if run else []),
    }


def places_of_claims(figures: Mapping[str, go.Figure]) -> dict[str, str]:
    """Name of a claim -> where on the page of its run the first figure is that shows the evidence for it."""
    slugs, found = unique_slugs(figures), {}
    for name, figure in figures.items():
        for claim in meta_of(figure).get("claims", ()):
            found.setdefault(claim, f"fig-{slugs[name]}-box")
    return found


def said(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what it says, text): what is seen, how to read it, n; the one caption where a figure has no such parts."""
    parts = [(part, str(meta[part])) for part in ("seen", "read", "sample") if meta.get(part)]
    return parts or [("seen", str(meta.get("caption", "")))]


def unique_slugs(names: Iterable[str]) -> dict[str, str]:
    """Names as they can stand in an address, no two alike: "top 1" -> "top-1"."""
    slugs: dict[str, str] = {}
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "figure"
        slugs[name] = slug if slug not in slugs.values() else f"{slug}-{len(slugs)}"
    return slugs


def without_words(figure: go.Figure) -> dict[str, Any]:
    """The figure as plain data, without title and caption: the page says them in its own letters."""
    data = figure.to_plotly_json()
    layout = {k: v for k, v in data["layout"].items() if k not in ("title", "meta")}
    room = SWITCH if layout.get("updatemenus") else MODE_BAR
    layout["margin"] = {"t": room, **layout.get("margin", {})}
    return {"data": data["data"], "layout": layout}


def figure_json(figure: dict[str, Any]) -> Markup:
    """A figure as JSON, packed."""
    return packed(plotly_json.to_json_plotly(rounded(figure), engine="json") or "")


def packed(text: str) -> Markup:
    """A text deflated, in base64: JSON weighs a tenth of it, and no letter of it can close its element."""
    return Markup(base64.b64encode(zlib.compress(text.encode(), 9)).decode())


def rounded(value: Any) -> Any:
    """The same nested data, every number with five digits; what is no number is None (JSON's null)."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [rounded(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, (float, np.floating)):
        return rounded_number(float(value))
    return value


def rounded_number(value: float, digits: int = DIGITS) -> float | int | None:
    """So many digits; None where missing. Whole numbers without a point."""
    if not math.isfinite(value):
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() and abs(value) < 1e9 else value
