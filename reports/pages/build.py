"""From run directories to the report: `build` writes every page, `show_page` one page for one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ...data.errors import ReportError
from . import claims, compare, gallery, glossary, heads, neuron_cards, page, recipes, series, steps
from . import static as images_of
from .files import write_file
from .runs import Run, read_runs
from .unchanged import NOTE, remember, unchanged
from .words import environment

__all__ = ["ReportError", "build", "show_page", "write_file"]


def build(out: Path, *, static: bool = False) -> list[Path]:
    """Write the report of `out/runs/*` into `out`; returns the HTML pages, the gallery first.

    Pages: index.html, claims.html, glossary.html, <run>.html, head.html with a card for every head and MLP,
    neuron.html with cards of single neurons, compare-….html for pairs and series of runs that fit, a page for each of
    `out/recipes/*.json` (a paper's figures in its order); beside them plotly.min.js (no page asks the network for
    anything) and downloads/<run>/ with every table as CSV and parquet. static: also every figure as SVG, PNG and PDF
    (slow; needs kaleido and a Chromium).
    The same runs give the same bytes; where nothing has changed since the last time, nothing is drawn. Raises
    ReportError without runs or where `out` cannot be written.
    """
    out = Path(out)
    if pages := unchanged(out, static):
        return pages
    runs, notes = read_runs(out / "runs")
    drawn = {run.name: page.run_figures(run) for run in runs}
    images = _images(drawn, out) if static else {}
    subjects, neurons = heads.subjects(runs, drawn), neuron_cards.subjects(runs)
    compared, over_models = compare.pages(runs), series.pages(runs)
    compared |= {address: (title, text) for address, (title, text, _) in over_models.items()}
    asked, unread = recipes.read_recipe_pages(out / "recipes")
    notes += unread + steps.notes(runs)
    links = [(recipe.address, recipe.texts["title"]) for recipe in asked]
    links += [(heads.PAGE, "Heads and MLPs")] if subjects else []
    links += [(neuron_cards.PAGE, "Neurons")] if neurons else []
    links += [(address, title) for address, (title, _) in compared.items()]
    written = {"index.html": gallery.index(runs, drawn, notes, links), "claims.html": claims.claims(runs, drawn)}
    written |= {glossary.PAGE: environment().get_template("glossary.html").render(terms=glossary.listed())}
    written |= {heads.PAGE: heads.render(subjects), neuron_cards.PAGE: neuron_cards.render(neurons)}
    written |= {address: text for address, (_, text) in compared.items()}
    written |= {recipe.address: recipes.render_recipe(recipe, runs, drawn) for recipe in asked}
    written |= {f"{run.name}.html": page.render(run, drawn[run.name], images.get(run.name)) for run in runs}
    write_file(out / "plotly.min.js", get_plotlyjs().encode())
    for run in runs:
        _downloads(run, out / "downloads" / run.name)
    for one in subjects:
        write_file(out / "downloads" / heads.csv_name(one), heads.to_csv(one))
    for _, _, table in over_models.values():
        write_file(out / table.file, table.csv)
    for name, text in written.items():
        write_file(out / name, text.encode())
    write_file(out / NOTE, remember(out, static, written))
    return [out / name for name in written]


def compare_page(names: Sequence[str | Path], out: Path) -> Path:
    """The page of two or more runs side by side in `out`; returns its path.

    names: run directories, or names of runs under `out/runs`. Raises ReportError where one is no complete run, or where
    they are not alike enough: the line says in what they differ.
    """
    out = Path(out)
    runs = [compare.open_named(name, out) for name in names]
    linked = {run.name for run in runs if (out / f"{run.name}.html").is_file()}
    if len(runs) < series.LEAST:
        first, second = runs
        address, text = compare.address(first, second), compare.render(first, second, linked)
    else:
        runs = series.in_order(runs)
        address, (text, table) = series.address(runs), series.page_of(runs, linked)
        write_file(out / table.file, table.csv)
    write_file(out / "plotly.min.js", get_plotlyjs().encode())
    write_file(out / address, text.encode())
    return out / address


def show_page(figures: go.Figure | Sequence[go.Figure] | Mapping[str, go.Figure], path: Path, title: str) -> Path:
    """One page with these figures at `path`, plotly.min.js beside it; returns the path."""
    if isinstance(figures, go.Figure):
        figures = [figures]
    named = dict(figures) if isinstance(figures, Mapping) else {str(i): f for i, f in enumerate(figures)}
    slugs = page.unique_slugs(named)
    blocks = [page.figure_block(slugs[name], figure, None) for name, figure in named.items()]
    text = page.environment().get_template("show.html").render(title=title, figures=blocks)
    path = Path(path)
    write_file(path.parent / "plotly.min.js", get_plotlyjs().encode())
    write_file(path, text.encode())
    return path


def _downloads(run: Run, directory: Path) -> None:
    for name, table in run.tables.items():
        write_file(directory / f"{name}.parquet", run.files[name])
        write_file(directory / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())


def _images(drawn: Mapping[str, page.Drawn], out: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Run name -> figure name -> kind -> address of its image."""
    return {name: images_of.write_images(name, figures, out) for name, (figures, _) in drawn.items()}
