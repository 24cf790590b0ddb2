"""One page for single neurons of all subjects, an address for each: neuron.html#smollm2/12.803. Made of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from .blocks import rounded_number
from .glossary import glossed
from .head_values import Measure, sample_of, where_of
from .head_words import Place, Roles, Words
from .heads import Heads, address, apart, as_data, page_of
from .runs import Run, by_model

PAGE = "neuron.html"
NEURON = ["layer", "neuron"]
SECTIONS = ("SASC score", "How often it is active", "How specific it is")
OTHERS = "mean of the neurons of other labels"
EXPLAINED = (
    "SASC score: what the neuron passes on in texts of the label minus that in all other texts, in standard deviations "
    "over n-grams (σ). 0: the label explains nothing of it; below 0: in its texts the neuron passes on less, or on the "
    "other side of 0. Label: the language, domain or kind that the task gives a text. Neurons, contexts and n-grams "
    "were chosen on held-out texts, scores and shares are measured on others. Thin lines: all neurons that have a card."
)


def subjects(runs: Sequence[Run]) -> list[Heads]:
    """The subjects of which a run shows single neurons, as `by_model` has them."""
    return by_model([run for run in runs if run.record["analysis"] == "neurons"], _of_model)


def _of_model(key: str, runs: list[Run]) -> Heads | None:
    found = apart(sorted(chain(*map(measures, runs)), key=lambda m: SECTIONS.index(m.section)))
    said, labels = list(chain(*map(words, runs))), list(chain(*map(roles, runs)))
    return Heads(key, runs[0].record["subject"], runs, found, said, labels) if found or said else None


def measures(run: Run) -> Iterator[Measure]:
    """Of each condition: scores and shares of tokens by label, then the entropy."""
    for (condition, measure, texts), rows in _parts(run, "cards", ["condition", "measure", "texts"]):
        section, title = (
            (SECTIONS[0], f"explained by {texts}") if measure == SECTIONS[0] else (SECTIONS[1], f"in {texts}")
        )
        others = rows.groupby(NEURON).filter(lambda mine, texts=texts: texts not in set(mine["label"]))
        yield _measure(run, rows, title, section, condition, others.drop_duplicates(NEURON)["value"].mean())
    for (condition,), rows in _parts(run, "neurons", ["condition"]):
        entropy = rows.assign(value=rows["entropy"], unit="nats", lower=float("nan"), upper=float("nan"))
        yield _measure(run, entropy, "entropy over labels", SECTIONS[2], condition)


def _parts(run: Run, name: str, by: list[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    table = run.tables.get(name)
    if table is not None and {*NEURON, "value", "label"} <= set(table):
        for key, rows in table.assign(condition=table.get("condition", "")).groupby(by, sort=False):
            yield tuple(map(str, key)), rows


def _measure(
    run: Run, rows: pd.DataFrame, title: str, section: str, condition: str, control: float = float("nan")
) -> Measure:
    once = rows.drop_duplicates(NEURON)
    numbers = once.reindex(columns=["value", "lower", "upper"]).assign(p=float("nan"), control=control)
    numbers.index = pd.MultiIndex.from_frame(once[NEURON].astype(int))
    where, sample, unit = where_of(run, condition), sample_of(rows), str(rows["unit"].iloc[0])
    return Measure(title, unit, where, section, False, run, f"{run.name}.html", sample, "", OTHERS, numbers)


def words(run: Run) -> Iterator[Words]:
    """The tokens that each neuron raises most."""
    table = run.tables.get("neurons")
    if table is not None and {*NEURON, "writes"} <= set(table):
        texts = {_place(row): str(row["writes"]) for row in table.to_dict("records") if row["writes"]}
        yield Words("What it raises most in the output, by its weights alone", run, texts)


def roles(run: Run) -> Iterator[Roles]:
    """The labels that each neuron is specific to."""
    table = run.tables.get("neurons")
    if table is not None and {*NEURON, "label"} <= set(table):
        named: dict[Place, list[str]] = {}
        for row in table.drop_duplicates([*NEURON, "label"]).to_dict("records"):
            named.setdefault(_place(row), []).append(str(row["label"]))
        yield Roles(where_of(run, ""), "", run, {}, {place: ", ".join(labels) for place, labels in named.items()})


def _place(row: Mapping[Any, Any]) -> Place:
    return int(row["layer"]), int(row["neuron"])


# ---------------------------------------------------------------- the page


def render(found: Sequence[Heads]) -> str:
    """The HTML of the page; heads and neurons share layout and numbers."""
    return page_of(PAGE, map(data_of, found), [(one, one.runs) for one in found], explained=glossed(EXPLAINED))


def data_of(one: Heads) -> dict[str, Any]:
    """What the browser needs of a subject."""
    size = [int(one.record.get("n_layers") or 0), max(map(_width, one.runs))]
    return as_data(one, SECTIONS) | {"size": size, "heard": [_heard(run) for run in one.runs]}


def _width(run: Run) -> int:
    """Neurons of a layer; 0 where the run does not say so."""
    return int((run.record.get("fitted") or {}).get("width") or 0)


def _heard(run: Run) -> dict[str, Any]:
    """Contexts [activation, before, peak, behind] and n-grams [mean activation, occurrences, text] by neuron."""
    contexts = _rows(run, "contexts", ("value", "before", "peak", "behind"))
    ngrams = _rows(run, "ngrams", ("value", "n", "ngram"))
    sides = {place: row[0] for place, (row, *_) in _rows(run, "contexts", ("side",)).items()}
    return {"where": where_of(run, ""), "contexts": contexts, "ngrams": ngrams, "sides": sides}


def _rows(run: Run, name: str, columns: Sequence[str]) -> dict[str, list[list[Any]]]:
    """By address the rows of a table, in order; numbers to four digits, texts as they are read."""
    table, found = run.tables.get(name), dict[str, list[list[Any]]]()
    if table is not None and {*NEURON, "rank", *columns} <= set(table):
        for row in table.sort_values([*NEURON, "rank"], kind="stable").to_dict("records"):
            told = [_visible(row[c]) if isinstance(row[c], str) else rounded_number(float(row[c]), 4) for c in columns]
            found.setdefault(address(_place(row)), []).append(told)
    return found


def _visible(text: str) -> str:
    """Ends of lines and what cannot be seen as signs, spaces as they are."""
    shown = text.replace("\n", "↵").replace("\t", "⇥")
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 else c for c in shown)
