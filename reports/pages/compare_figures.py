"""Figures of two runs: heads against each other, maps on one scale, their difference, curves over depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..charts import captioned, head_map, lines, sample, scatter
from ..charts.style import meta_of, number, plain
from .compare_rows import OUTLIERS, Pair, by_unlikeness, difference

PANELS = 3  # of a figure: the measures that differ most
MAPS = 2  # measures whose maps are drawn
DEPTH = "relative depth"
HELPS = "Above 0: what is taken away helps the answer."


def figures(names: tuple[str, str], depths: tuple[int, int], pairs: Sequence[Pair]) -> dict[str, go.Figure]:
    """By name: scatter, maps and differences of heads, then curves; those that differ most first.

    names: of the two runs. depths: layers of each model; where these differ, curves run over layer / layers.
    """
    ranked = by_unlikeness(pairs)
    heads = [pair for pair in ranked if pair.place == ["layer", "head"]]
    alike = [pair for pair in heads if pair.alike]
    drawn = {}
    if alike:
        drawn["heads"] = _scatter(names, alike[:PANELS], "heads", "main")
    for count, pair in enumerate(alike[:MAPS], start=1):
        drawn[f"maps-{count}"] = _maps(names, pair, "main" if count == 1 else "more maps")
        drawn[f"difference-{count}"] = _difference(names, pair, "main" if count == 1 else "more maps")
    curves = [pair for pair in ranked if pair.place != ["layer", "head"]]
    for count, group in enumerate(_by_table(curves), start=1):
        drawn[f"curves-{count}"] = _curves(names, depths, group, "curves" if drawn else "main")
    if heads:
        drawn["depth"] = _by_layer(names, depths, heads[:PANELS], "curves" if alike else "main")
    flat = [pair for pair in curves if pair.alike]
    if flat:
        drawn["places"] = _scatter(names, flat[:PANELS], f"{flat[0].place[0]}s", "by layer")
    return drawn


def _by_table(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs of one table, unit and axis together, the most unlike first; as many as a figure has panels."""
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.table, pair.unit, pair.place[0]), []).append(pair)
    return [group[:PANELS] for group in groups.values()]


def _scatter(names: tuple[str, str], pairs: Sequence[Pair], what: str, theme: str) -> go.Figure:
    parts = [difference(pair).assign(panel=pair.title) for pair in pairs]
    rows = pd.concat(parts, ignore_index=True)
    figure = scatter(rows, "first", "second", "label", titles=names, panel="panel", diagonal=True)
    traces: Any = figure.data  # of many types, which pyright cannot tell apart
    points = [trace for trace in traces if "markers" in (trace.mode or "")]
    for trace, part in zip(points, parts, strict=True):
        far = part["value"].abs().gt(0) & (part.index < OUTLIERS)
        trace.text = [plain(label) if named else "" for label, named in zip(part["label"], far, strict=True)]
    units = ", ".join(dict.fromkeys(pair.unit for pair in pairs if pair.unit))
    seen = f"One point for each of the {what}, {names[0]} across, {names[1]} up ({units})."
    read = f"On the dashed line both are equal; named are the {OUTLIERS} that differ most. {_apart(parts[0], what)}"
    read += _sign(pairs)
    title = f"{what.capitalize()} against each other"
    return finished(figure, title, (seen, read, sample(_joined(pairs))), pairs[0].table, theme)


def _apart(rows: pd.DataFrame, what: str) -> str:
    """How many differ beyond their intervals, and which do most."""
    if rows[["lower", "upper"]].isna().all(axis=None):
        return "Nothing is said of chance: there are no intervals."
    most = ", ".join(f"{r['label']} ({number(r['value'])})" for r in rows.head(OUTLIERS).to_dict("records"))
    clear = int(rows["clear"].sum())
    return f"In the first panel {clear} of {len(rows)} {what} differ beyond their intervals; most: {most}."


def _maps(names: tuple[str, str], pair: Pair, theme: str) -> go.Figure:
    rows = _joined([pair], names)
    figure = head_map(rows[rows["control"] == ""], signed=pair.signed, panel="run", unit=pair.unit)
    seen = f"{pair.title}: {names[0]} above, {names[1]} below, one cell a head."
    return finished(
        figure,
        f"Heads: {pair.title}",
        (seen, f"Both have one colour scale.{_sign([pair])}", sample(rows)),
        pair.table,
        theme,
    )


def _difference(names: tuple[str, str], pair: Pair, theme: str) -> go.Figure:
    apart = difference(pair)
    figure = head_map(apart, signed=True, unit=pair.unit)
    seen = f"{names[1]} minus {names[0]}, head by head: red where it is larger in {names[1]}."
    named = ", ".join(f"{r['label']} ({number(r['value'])})" for r in apart.head(OUTLIERS).to_dict("records"))
    clear = int(apart["clear"].sum())
    read = f"{clear} of {len(apart)} heads differ beyond their intervals; largest: {named}."
    return finished(figure, f"Difference: {pair.title}", (seen, read, sample(_joined([pair]))), pair.table, theme)


def _curves(names: tuple[str, str], depths: tuple[int, int], pairs: Sequence[Pair], theme: str) -> go.Figure:
    rows = pd.concat([_joined([pair], names).assign(panel=pair.title) for pair in pairs], ignore_index=True)
    what = pairs[0].table.replace("_", " ")
    return _over_depth(names, depths, rows, pairs, (f"By {pairs[0].place[0]}: {what}", ""), theme)


def _by_layer(names: tuple[str, str], depths: tuple[int, int], pairs: Sequence[Pair], theme: str) -> go.Figure:
    """The largest size of a layer's heads: what can be compared between models of any shape."""
    parts = []
    for pair in pairs:
        for name, side in zip(names, pair.measured, strict=True):
            largest = side.assign(value=side["value"].abs()).groupby("layer", as_index=False)["value"].max()
            parts.append(largest.assign(run=name, panel=pair.title, unit=pair.unit, control=""))
    said = ("The strongest head of each layer", "The largest size among the heads of a layer. ")
    return _over_depth(names, depths, pd.concat(parts, ignore_index=True), pairs, said, theme)


def _over_depth(
    names: tuple[str, str],
    depths: tuple[int, int],
    rows: pd.DataFrame,
    pairs: Sequence[Pair],
    said: tuple[str, str],
    theme: str,
) -> go.Figure:
    """Lines of both runs, a panel a measure. said: title, and what is said before how to read it."""
    place = "state" if pairs[0].place == ["state"] else "layer"
    if depths[0] != depths[1]:
        layers = rows["run"].map(dict(zip(names, depths, strict=True))).clip(lower=1)
        rows = rows.assign(**{DEPTH: rows[place] / layers})
    x = DEPTH if DEPTH in rows else place
    figure = lines(rows, x, by="run", panel="panel", y_title=", ".join(dict.fromkeys(p.unit for p in pairs if p.unit)))
    over = f"{DEPTH}, {place} / layers" if x == DEPTH else place
    read = "Bands: 95 % interval." if "lower" in rows else ""
    read += " Dotted: the control." if (rows["control"] != "").any() else ""
    read += "" if said[1] else _sign(pairs)
    parts = (f"{said[1]}{names[0]} and {names[1]} over {over}.", read.strip(), sample(_joined(pairs)))
    return finished(figure, said[0], parts, pairs[0].table, theme)


def _sign(pairs: Sequence[Pair]) -> str:
    """What the sign means, where an edit took something away."""
    return f" {HELPS}" if any(pair.edited for pair in pairs) else ""


def _joined(pairs: Sequence[Pair], names: tuple[str, str] = ("", "")) -> pd.DataFrame:
    """The rows of both runs under each other, with a column run."""
    both = [side.assign(run=name) for pair in pairs for name, side in zip(names, pair.sides, strict=True)]
    return pd.concat(both, ignore_index=True)


def finished(figure: go.Figure, title: str, said: tuple[str, str, str], table: str, theme: str = "") -> go.Figure:
    """The figure with its title and caption: what is seen, how to read it, n."""
    captioned(figure, title, " ".join(part for part in said if part), table)
    parts = dict(zip(("seen", "read", "sample"), said, strict=True))
    return figure.update_layout(meta={**meta_of(figure), **parts, "theme": theme})
