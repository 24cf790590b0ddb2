"""One page for all heads and MLPs of all subjects, an address for each: head.html#smollm2/23.3. Made of tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import get_colorscale

from ..charts.style import SIGNED, UNSIGNED, meta_of
from .blocks import packed, rounded_number
from .head_values import MLP, PLACE, SECTIONS, WEIGHTS, Measure, measures
from .head_words import Place, Roles, Words, findings, named_in, roles, words
from .page import Drawn, environment, unique_slugs
from .runs import Run, by_model

PAGE = "head.html"
CHIEF = 10  # measures of the table that opens; with head and role these are 12 columns


@dataclass(eq=False)
class Heads:
    """What the runs of one subject say of its heads and MLPs. named: figures and findings that name some of them."""

    key: str
    record: Mapping[str, Any]
    runs: list[Run]
    measures: list[Measure] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    roles: list[Roles] = field(default_factory=list)
    named: list[dict[str, Any]] = field(default_factory=list)

    @property
    def places(self) -> list[Place]:
        """Every head and MLP that some run has a value or words for, heads first, in order."""
        known = [m.rows.index[m.rows["value"].notna()] for m in self.measures]
        found = {(int(a), int(b)) for index in known for a, b in index} | {p for w in self.words for p in w.texts}
        return sorted(found, key=lambda place: (place[1] == MLP, place))


def subjects(runs: Sequence[Run], drawn: Mapping[str, Drawn]) -> list[Heads]:
    """The subjects of which a run says something of single heads or MLPs, as `by_model` has them."""
    return by_model(runs, lambda key, mine: _heads(key, mine, drawn))


def _heads(key: str, runs: list[Run], drawn: Mapping[str, Drawn]) -> Heads | None:
    one = Heads(key, runs[0].record["subject"], [])
    for run in sorted(runs, key=_untestable):
        figures = _addressed(run, drawn)
        by_table: dict[str, list[tuple[str, go.Figure]]] = {}
        for address, figure in figures:
            by_table.setdefault(str(meta_of(figure).get("table")), []).append((address, figure))
        found, said = list(measures(run, by_table)), list(words(run))
        if found or said:
            one.runs.append(run)
        one.measures += found
        one.words += said
        one.roles += roles(run)
        one.named += _named(run, figures, one.record)
    by_section = sorted(one.measures, key=lambda m: (SECTIONS.index(m.section), m.where == WEIGHTS))
    one.measures = apart(by_section)
    return one if one.measures or one.words else None


def _untestable(run: Run) -> bool:
    """Whether a precondition failed in this run: what it measured comes last."""
    return any(claim.get("verdict") == "not testable" for claim in run.claims)


def _addressed(run: Run, drawn: Mapping[str, Drawn]) -> list[tuple[str, go.Figure]]:
    """The figures of a run's page with their addresses."""
    figures = drawn.get(run.name, ({}, []))[0]
    slugs = unique_slugs(figures)
    return [(f"{run.name}.html#fig-{slugs[name]}-box", figure) for name, figure in figures.items()]


def _named(run: Run, figures: list[tuple[str, go.Figure]], subject: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Findings, then figures, that name heads: text, address, heads."""
    size = [int(subject.get(n) or 0) for n in ("n_layers", "n_heads")]
    slugs = {address.partition("#fig-")[2].removesuffix("-box"): address for address, _ in figures}
    said = [
        {"text": row["text"], "address": slugs.get(row["figure"], f"{run.name}.html"), "heads": row["heads"].split()}
        for row in findings(run)
    ]
    for address, figure in figures:
        if heads := named_in(figure, *size):
            title = str(meta_of(figure).get("title") or run.title)
            said.append({"text": f"{title} ({run_title(run)})", "address": address, "heads": heads})
    return said


def apart(found: list[Measure]) -> list[Measure]:
    """Measures that two runs have alike are told apart by the run."""
    seen = [(m.title, m.unit, m.where, m.mlp) for m in found]
    twice = {one for one in seen if seen.count(one) > 1}
    return [
        m._replace(where=f"{m.where}, run {m.run.name[-8:]}") if one in twice else m
        for m, one in zip(found, seen, strict=True)
    ]


def chief(found: Sequence[Measure], mlp: bool) -> list[int]:
    """The numbers of the measures that open the table: the first of every run, then the second, …"""
    rounds: dict[str, int] = {}
    order = []
    for number, measure in enumerate(found):
        if measure.mlp == mlp:
            rounds[measure.run.name] = rounds.get(measure.run.name, -1) + 1
            order.append((rounds[measure.run.name], number))
    return sorted(number for _, number in sorted(order)[:CHIEF])


# ---------------------------------------------------------------- the page


def render(found: Sequence[Heads]) -> str:
    """The HTML of the page: one template, one compact JSON, cards and table made in the browser."""
    return page_of(PAGE, map(as_data, found), [(one, csv_name(one)) for one in found])


def page_of(template: str, found: Iterable[dict[str, Any]], subjects: Sequence[Any], **words: Any) -> str:
    """A page of cards; subjects, words: what its template shows of each, and of all."""
    colours = {"signed": get_colorscale(SIGNED), "unsigned": get_colorscale(UNSIGNED)}
    data = {"colours": colours, "subjects": list(found)}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return environment().get_template(template).render(subjects=subjects, json=packed(text), **words)


def as_data(one: Heads, sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """What the browser needs of a subject; numbers to four digits, in the order of `places`."""
    places = one.places
    runs = list(dict.fromkeys([run.name for run in one.runs]))
    return {
        "key": one.key,
        "name": str(one.record.get("name")),
        "size": [int(one.record.get(n) or 0) for n in ("n_layers", "n_heads")],
        "places": [address(place) for place in places],
        "runs": [{"name": run.name, "title": run_title(run)} for run in one.runs],
        "sections": sections,
        "measures": [_measure(m, places, runs, sections) for m in one.measures],
        "words": [
            {"title": w.title, "run": runs.index(w.run.name), "texts": {address(p): t for p, t in w.texts.items()}}
            for w in one.words
        ],
        "roles": [
            {
                "where": r.where,
                "rule": r.rule,
                "run": r.run.name,
                "stages": {address(p): stages for p, stages in r.stages.items()},
                "names": {address(p): name for p, name in r.names.items() if name},
            }
            for r in one.roles
        ],
        "named": one.named,
        "chief": {part: chief(one.measures, part == "mlp") for part in ("head", "mlp")},
    }


def _measure(m: Measure, places: Sequence[Place], runs: list[str], sections: Sequence[str]) -> dict[str, Any]:
    mine = [place for place in places if (place[1] == MLP) == m.mlp]
    rows = m.rows.reindex(pd.MultiIndex.from_tuples(mine, names=PLACE))
    columns = {c: _short(rows[c]) for c in ("value", "lower", "upper", "p", "control")}
    data = {c: values for c, values in columns.items() if any(v is not None for v in values)}
    texts = {"title": m.title, "unit": m.unit, "where": m.where, "figure": m.figure, "sample": m.sample}
    texts |= {"pName": m.p_name, "controlName": m.control}
    return {**texts, "section": sections.index(m.section), "mlp": m.mlp, "run": runs.index(m.run.name)} | {
        "signed": m.signed,
        **data,
    }


def run_title(run: Run) -> str:
    task = run.record["task"]
    return f"{run.record['analysis'].replace('_', ' ')}: {task.get('title') or task.get('name', '?')}"


def address(place: Place) -> str:
    """ "23.3" of a head, "mlp.12" of an MLP: what stands behind the subject in its address."""
    return f"mlp.{place[0]}" if place[1] == MLP else f"{place[0]}.{place[1]}"


def _short(values: pd.Series) -> list[float | int | None]:
    return [rounded_number(value, 4) for value in values.astype(float)]


# ---------------------------------------------------------------- the table to download


def csv_name(one: Heads) -> str:
    """The name of the subject's table among the downloads."""
    safe = "".join(c if c.isalnum() or c in ".-_" else "-" for c in one.key)[-80:].lstrip(".-")
    return f"heads-{safe}-{str(one.record.get('fingerprint'))[:8]}.csv"


def to_csv(one: Heads) -> bytes:
    """One row a head or MLP, one column a measure (title, unit, where), then the words."""
    index = pd.MultiIndex.from_tuples(one.places, names=PLACE)
    columns: dict[str, pd.Series] = {}
    for m in one.measures:
        title = f"{'MLP: ' if m.mlp else ''}{m.title} ({m.unit}; {m.where})"
        columns[title if title not in columns else f"{title} {m.run.name[-8:]}"] = m.rows["value"].reindex(index)
    for w in one.words:
        columns[w.title if w.title not in columns else f"{w.title} {w.run.name[-8:]}"] = pd.Series(w.texts)
    frame = pd.DataFrame({title: values.reindex(index) for title, values in columns.items()}, index=index).reset_index()
    frame.insert(0, "address", [address(place) for place in one.places])
    return frame.to_csv(index=False, lineterminator="\n").encode()
