"""The runs of a recipe as commands, and which of them lie finished in a directory. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from .. import analyses, probes
from ..analyses.reading import Source, read_analyses
from ..data import subjects
from ..data.tasks import open_task
from ..probes.runs.recipes import Recipe, Record, find_run, read_recipes
from ..probes.runs.remembered import recall_subject
from .model import BOS, Run, as_line, with_options
from .names import require_known

RECIPES = Path(analyses.__file__).parent / "recipes"


def known_recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    return read_recipes(RECIPES)


def runs_of(recipe: Recipe, **instead: Any) -> list[Run]:
    """One command for each analysis and task, each once; `instead`: values that take the place of the recipe's."""
    runs: dict[str, Run] = {}
    for entry in recipe.runs:
        given = dict(entry) | instead
        if _source(given["analysis"]).needs:
            continue
        tasks, subjects = (
            _several(given.pop(name, default)) for name, default in (("task", ()), ("subject", Run.subject))
        )
        revision = given.pop("revision", None)
        for task, subject in product(tasks, subjects):
            run = _command(task=(task,), subject=(subject,), revision=(revision,) if revision else (), **given)
            runs.setdefault(as_line(run), run)
    return list(runs.values())


def _several(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def joins_of(recipe: Recipe) -> list[Source]:
    """The analyses of a recipe that are made of finished runs."""
    sources = [_source(entry["analysis"]) for entry in recipe.runs]
    return [source for source in sources if source.needs]


def _source(name: str) -> Source:
    known = read_analyses()
    require_known("analysis", name, known)
    return known[name]


def _command(*, analysis: str, options: Mapping[str, Any] | None = None, **flags: Any) -> Run:
    source = _source(analysis)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in (options or {}).items()}
    for kind, names, known in (("flag", flags, Run), (f"option of {analysis}", values, source.Options)):
        for name in names:
            require_known(kind, name, [one.name for one in fields(known)])
    return with_options(Run, [source])(analyses=(analysis,), **flags, **{analysis: source.Options(**values)})


def finished_run(run: Run, records: list[Record]) -> Record | None:
    """The record of this run, where it is certain without opening the model.

    That is so of the embedded subjects, whose weights are known, and of others where their files are as they were when
    they were opened last.
    """
    (analysis,), (spec,) = run.analyses, run.task
    subject = _subject_of(run)
    if subject is None:
        return None
    task = open_task(spec)
    if task.location or task.options.get("hub"):
        return None  # whose content is known only when it is read
    has_bos = {"task": [task.module.BOS]}.get(run.bos, BOS[run.bos])
    asked = {
        "analysis": analysis,
        "versions.analysis": _source(analysis).constant("VERSION", None),
        "versions.probes": probes.VERSION,
        **{f"subject.{name}": value for name, value in subject.items()},
        "task.name": task.name,
        "task.version": task.module.VERSION,
        "task.template": run.form or task.module.TEMPLATE,
        "task.options": task.options,
        "task.seed": run.seed,
        "task.own_answer_tokens": run.answer_tokens or None,
        "limit": run.limit,
        **{f"options.{name}": value for name, value in asdict(getattr(run, analysis)).items()},
    }
    return find_run([record for record in records if _has_conditions(record, has_bos)], asked)


def _subject_of(run: Run) -> dict[str, Any] | None:
    """What is known of a run's subject; None where it has to be opened."""
    if run.name not in subjects.EMBEDDED:
        return recall_subject(run.name, run.model_flags)
    if run.model_flags != Run().model_flags:
        return None
    home = import_module(f"{subjects.__name__}.{subjects.EMBEDDED[run.name]}")
    return {"name": run.name, "revision": home.revision()}


def together(runs: Sequence[Run]) -> list[Run]:
    """Runs of the same examples as one command, whose analyses ride one forward; none has an analysis twice."""
    groups: list[list[Run]] = []
    for run in runs:
        fits = [g for g in groups if _examples(g[0]) == _examples(run) and run.analyses not in [o.analyses for o in g]]
        if fits:
            fits[0].append(run)
        else:
            groups.append([run])
    return [_joined(group) for group in groups]


def _examples(run: Run) -> dict[str, Any]:
    """All of a command but its analyses and their options."""
    return {one.name: getattr(run, one.name) for one in fields(Run) if one.name != "analyses"}


def _joined(runs: Sequence[Run]) -> Run:
    """One command for all of these."""
    names = [name for run in runs for name in run.analyses]
    options = {name: getattr(run, name) for run in runs for name in run.analyses}
    return with_options(Run, [_source(name) for name in names])(analyses=tuple(names), **_examples(runs[0]), **options)


def _has_conditions(record: Record, bos: Any) -> bool:
    """Whether a run has these conditions; of None, the tokenizer's own habit, whether it has one."""
    ran = {shard["bos"] for shard in record.get("plan", {}).get("shards", [])}
    return len(ran) == 1 if None in bos else ran == set(bos)


def finished_join(source: Source, made_of: list[str], records: list[Record]) -> Record | None:
    """The record of a run that is made of these runs."""
    version = source.constant("VERSION", None)
    of = [record for record in records if sorted(record.get("joined", [])) == sorted(made_of)]
    return find_run(of, {"analysis": source.name, "versions.analysis": version, "options": asdict(source.Options())})


def state(recipe: Recipe, records: list[Record]) -> tuple[int, int]:
    """How many of its runs are finished, and how many there are."""
    found = [finished_run(run, records) for run in runs_of(recipe)]
    joined = [finished_join(s, made_of(s, [r for r in found if r]), records) for s in joins_of(recipe)]
    return sum(record is not None for record in [*found, *joined]), len(found) + len(joined)


def made_of(source: Source, records: list[Record]) -> list[str]:
    """The names of those runs that an analysis of finished runs is made of, in the order of their names."""
    return sorted(record["name"] for record in records if record["analysis"] in source.needs)


def figures_of(recipe: Recipe, records: list[Record]) -> list[dict[str, str]]:
    """Every figure of a recipe with the name of each run that has it, in the recipe's order."""
    return [
        {"run": record["name"], "figure": figure["figure"], "shows": figure.get("shows", "")}
        for figure in recipe.figures
        for record in sorted(records, key=lambda record: record["name"])
        if record["analysis"] == figure["run"] and figure.get("task", record["task"]["name"]) == record["task"]["name"]
    ]
