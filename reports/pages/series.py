"""Three or more models, or checkpoints of one training, on one page: an analysis of one task by layer and model."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ...data.errors import ReportError
from .blocks import figure_block
from .compare import OPEN, refusal
from .compare_claims import claim_name
from .runs import Run, read_run
from .series_change import halves, sentences
from .series_figures import Measure, figures, measures
from .steps import home, step_of, steps
from .words import environment, sample_size, task_words

LEAST = 3  # two have a page of their own kind


class Download(NamedTuple):
    """What the figures of a series draw. file: its place beside the page."""

    file: str
    csv: bytes


def alike(directories: Sequence[Path]) -> list[list[Path]]:
    """Finished runs of one analysis and one task together, each group of several in the order given."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in directories:
        run = read_run(path)
        groups.setdefault((str(run.record["analysis"]), task_words(run.record["task"])), []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def series(runs: Sequence[Run]) -> list[list[Run]]:
    """Every LEAST or more runs that differ in their model alone, in order; a training's checkpoints by themselves."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.name):
        kin = [group for group in groups if home(group[0]) == home(run)]
        fits = [group for group in kin if all(_fits(run, other) for other in group)]
        if fits:
            fits[0].append(run)
        else:
            groups.append([run])
    return [in_order(group) for group in groups if len(group) >= LEAST]


def _fits(a: Run, b: Run) -> bool:
    return (
        _weights(a) != _weights(b)
        and task_words(a.record["task"]) == task_words(b.record["task"])
        and not refusal(a, b)
    )


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Checkpoints of one training by their steps; others shallow first, of one depth by the numbers in their names."""
    if steps_of(runs):
        return sorted(runs, key=lambda run: step_of(run.record["subject"]) or 0)

    def place(run: Run) -> tuple[int, list[tuple[int, str]]]:
        words = re.split(r"(\d+)", _name(run))
        return _depth(run), [(int(word), "") if word.isdigit() else (-1, word) for word in words]

    return sorted(runs, key=place)


def steps_of(runs: Sequence[Run]) -> list[int] | None:
    """The step of each, where they are checkpoints of one training that name it."""
    return steps([run.record["subject"] for run in runs])


def _depth(run: Run) -> int:
    return int(run.record["subject"].get("n_layers") or 0)


def _weights(run: Run) -> str:
    return str(run.record["subject"].get("fingerprint"))


def _name(run: Run) -> str:
    revision = run.record["subject"].get("revision")
    return f"{run.model} {revision}" if revision else run.model


def names(runs: Sequence[Run]) -> list[str]:
    """What tells the models apart: their steps, their names, their revisions, or both, or their weights."""
    if at := steps_of(runs):
        return [f"step {step}" for step in at]
    ways: tuple[Callable[[Run], str], ...] = (
        lambda run: run.model,
        lambda run: str(run.record["subject"].get("revision")),
        _name,
        lambda run: f"{run.model} {_weights(run)[:8]}",
    )
    for way in ways:
        found = [way(run) for run in runs]
        if len({*found}) == len(runs):
            break
    return found


def address(runs: Sequence[Run]) -> str:
    """The name of their page."""
    whole = " ".join(run.name for run in runs)
    return f"compare-{runs[0].name[-110:]}-{len(runs)}-{sha256(whole.encode()).hexdigest()[:8]}.html"


def title(runs: Sequence[Run]) -> str:
    """ "Sinks, passages: five models": what is compared, in a line."""
    analysis = str(runs[0].record["analysis"]).replace("_", " ").capitalize()
    at = steps_of(runs)
    what = f"checkpoints of one training, steps {at[0]} to {at[-1]}" if at else "models side by side"
    return f"{analysis}, {task_words(runs[0].record['task'])}: {len(runs)} {what}"


def measured(runs: Sequence[Run]) -> list[Measure]:
    """What their page, and the table beside it, are made of. ReportError: runs that are unlike."""
    for a, b in combinations(runs, 2):
        if not _fits(a, b):
            why = refusal(a, b) or "not another model on the same task"
            raise ReportError(f"{a.name} and {b.name} do not belong on one page: {why}")
    return measures(names(runs), runs, steps_of(runs))


def download(runs: Sequence[Run], known: Sequence[Measure] | None = None) -> Download:
    """Every measure of all runs as one table, a column `step` where they are checkpoints of one training. known: what
    `measured` gives, where it is known.
    """
    known = measured(runs) if known is None else known
    found = [one.rows.assign(table=one.table, measure=one.title) for one in known]
    first = ["model", "step", "table", "measure", "layer", "state", "control", "value", "lower", "upper"]
    whole = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=pd.Index(first))
    columns = [c for c in first if c in whole] + [c for c in whole if c not in first]
    text = whole[columns].to_csv(index=False, lineterminator="\n", float_format="%.6g")
    return Download(_csv(runs), text.encode())


def _csv(runs: Sequence[Run]) -> str:
    return f"downloads/{address(runs).removesuffix('.html')}.csv"


def render(runs: Sequence[Run], linked: Collection[str] = (), known: Sequence[Measure] | None = None) -> str:
    """The HTML of three or more runs. linked: names of the runs that have a page beside it. known: what
    `measured` gives, where it is known. ReportError: as there.
    """
    runs = in_order(runs)
    found = measured(runs) if known is None else known
    called, at = names(runs), steps_of(runs)
    blocks = [figure_block(name, figure, None) for name, figure in figures(called, runs, found).items()]
    sides = [
        {"name": name, "run": run, "size": sample_size(run.record["task"])}
        for name, run in zip(called, runs, strict=True)
    ]
    parts = {"chief": blocks[:OPEN], "more": blocks[OPEN:], "claims": list(_claims(runs))}
    changes = [*sentences(found, called), *halves(runs[0], runs[-1])] if at else []  # from the first step to the last
    parts |= {"changes": changes, "steps": at, "csv": _csv(runs)}
    page = environment().get_template("series.html")
    return page.render(title=title(runs), sides=sides, linked=linked, **parts)


def _claims(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Each claim of the first run with what every run says of it."""
    of = [{claim_name(claim): claim for claim in run.claims} for run in runs]
    for name, claim in of[0].items():
        sides = [one.get(name, {"verdict": "not testable", "numbers": "no such claim"}) for one in of]
        yield {"text": claim.get("text", ""), "source": claim.get("source", ""), "condition": name[1], "sides": sides}


def page_of(runs: Sequence[Run], linked: Collection[str] = ()) -> tuple[str, Download]:
    """The HTML of three or more runs in order, and the table beside it; as `render`."""
    known = measured(runs)
    return render(runs, linked, known), download(runs, known)


def pages(runs: Sequence[Run]) -> dict[str, tuple[str, str, Download]]:
    """Address -> (title, HTML, table) of every series that a report builds."""
    linked = {run.name for run in runs}
    return {address(group): (title(group), *page_of(group, linked)) for group in series(runs)}
