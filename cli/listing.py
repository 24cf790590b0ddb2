"""The command `list`: analyses, tasks, recipes and subjects, a line each; no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path

from tyro.conf import Positional

from ..analyses.reading import Source, read_analyses
from ..data import subjects
from ..data.tasks import open_task, task_names
from ..probes.runs.recipes import finished_records
from .model import OUT
from .names import require_known
from .recipe_runs import known_recipes, state


@dataclass(frozen=True)
class Catalogue:
    """Analyses, tasks, recipes and subjects, one line each; `crosslens list sinks` tells all of one."""

    names: Positional[tuple[str, ...]] = ()  # analyses of which everything is told
    options: bool = False  # the options of every analysis too
    out: Path = OUT  # where the runs lie that recipes are made of

    def __call__(self, line: str) -> None:
        known, others = read_analyses(), list(self._others())
        asked = [text for text in others if text.split()[1] in self.names] if self.names else others
        for name in self.names:
            require_known("name", name, [*known, *(text.split()[1] for text in others)])
        chosen = [known[name] for name in self.names or known if name in known]
        told = bool(self.names) or self.options
        lines = (text for source in chosen for text in (_all_of(source) if told else [_line(source)]))
        print("\n".join([*lines, *asked]))

    def _others(self) -> Iterator[str]:
        for name in task_names():
            yield f"task      {name:18s} {open_task(name).title}"
        records = finished_records(self.out)
        for name, recipe in known_recipes().items():
            yield f"recipe    {name:18s} {recipe.title} [{_state(*state(recipe, records))}]"
        for name, home in subjects.EMBEDDED.items():
            title = (import_module(f"{subjects.__name__}.{home}").__doc__ or "").splitlines()[0]
            yield f"subject   {name:18s} {title}"
        yield f"subject   {'…':18s} or a hub id (owner/name), a directory, a .gguf file, a step of the scenes training"


def _line(source: Source) -> str:
    return f"analysis  {source.name:18s} {source.title}"


def _state(done: int, count: int) -> str:
    if not done:
        return "not run"
    return "complete" if done == count else f"{done} of {count} runs"


def _all_of(source: Source) -> Iterable[str]:
    """Title, question, paper, and each option with its default."""
    yield _line(source)
    yield _indented(f"question  {source.question}")
    yield _indented(f"paper     {source.paper}")
    options = source.Options()
    for one in fields(options):
        yield _indented(f"--{source.name}.{one.name.replace('_', '-')}  {_shown(getattr(options, one.name))}")


def _indented(text: str) -> str:
    return textwrap.indent(text, " " * 10)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "(none)"
    return "(learned)" if value is None else f"{value}"
