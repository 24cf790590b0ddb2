"""Figures as files for papers and slides: SVG, PNG and PDF of every figure, by kaleido."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio

from ...data.errors import ReportError
from ..charts.style import layout_of, meta_of
from .blocks import unique_slugs
from .files import write_file

KINDS = ("svg", "png", "pdf")


def write_images(run: str, figures: Mapping[str, go.Figure], out: Path) -> dict[str, dict[str, str]]:
    """Figure name -> kind -> address of its image under `out`; one browser draws them all. ReportError without it."""
    slugs = unique_slugs(figures)
    addresses = {n: {kind: f"downloads/{run}/{slug}.{kind}" for kind in KINDS} for n, slug in slugs.items()}
    signed = [_signed(figure, run) for figure in figures.values()]
    widths: list[int | None] = [max(900, int(meta_of(f).get("min_width", 0))) for f in signed]
    heights: list[int | None] = [layout_of(figure).height for figure in signed]
    with tempfile.TemporaryDirectory() as place:
        for kind in KINDS:
            files: list[str | Path] = [f"{place}/{index}.{kind}" for index in range(len(signed))]
            try:
                pio.write_images(signed, files, width=widths, height=heights, scale=2 if kind == "png" else 1)
            except (ValueError, RuntimeError, ImportError) as error:
                first = (str(error).strip().splitlines() or [""])[0]
                raise ReportError(f"no {kind} of {run}: {first} (kaleido and Chromium are needed)") from None
            for file, address in zip(files, addresses.values(), strict=True):
                write_file(out / address[kind], Path(file).read_bytes())
    return addresses


def _signed(figure: go.Figure, run: str) -> go.Figure:
    """The figure with n and the run's name under its title: a picture leaves its page."""
    meta = meta_of(figure)
    said = " · ".join(part for part in (str(meta.get("sample") or ""), run) if part)
    signed = go.Figure(figure)
    title = layout_of(signed).title.text or ""
    return signed.update_layout(title_text=f"{title}<br><sup>{said}</sup>", margin_t=90)
