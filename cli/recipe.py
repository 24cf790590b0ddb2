"""The command `recipe`: a paper's figures from its runs, of which only the missing ones are run."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic
from typing import Any

from tyro.conf import Positional

from ..analyses.reading import Source
from ..data.errors import UserError
from ..data.progress import duration
from ..probes.model.naming import require_subject
from ..probes.runs.recipes import Recipe as Content
from ..probes.runs.recipes import Record, finished_records, read_record
from ..probes.runs.remembered import prove_once
from .finished import Overlap, Report
from .model import OUT, OneModel, Run, as_line, crew, with_options
from .names import require_known
from .recipe_runs import figures_of, finished_join, finished_run, joins_of, known_recipes, made_of, runs_of, together


@dataclass(frozen=True)
class Recipe(OneModel):
    """Regenerate a paper's figures: run what is missing of its runs, then build the report.

    `crosslens list` shows all recipes. Another subject, task or number of examples takes the place of all of the
    recipe's own.
    """

    name: Positional[str] = ""
    subject: str | None = None
    task: str | None = None
    limit: int | None = None  # examples of each run
    out: Path = OUT
    plan: bool = False  # only say which runs there are, and which are finished
    workers: int | None = None  # so many processes (or GPUs) share the batches; needs crosslens[cluster]
    ray: str | None = None  # the address of a Ray cluster whose nodes the workers are on

    def __call__(self, line: str) -> None:
        known = known_recipes()
        if not self.name:
            raise UserError(f"name a recipe: {', '.join(known)}")
        require_known("recipe", self.name, known)
        recipe = known[self.name]
        runs = runs_of(recipe, **self._instead(), out=self.out)
        for run in runs:
            run.require_names()
            require_subject(run.name)
        if self.plan:
            print("\n".join(self._planned(runs)))
            return
        records = self._run_missing(runs)
        for source in joins_of(recipe):
            records += self._joined(source, records)
        self._write_page(recipe, records, line)
        Report(out=self.out)(line)

    def _instead(self) -> dict[str, Any]:
        """What the user asks for in place of the recipe's own, and how the model is opened."""
        names = ["subject", "task", "limit", *(one.name for one in fields(OneModel))]
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(Recipe, n)}

    def _planned(self, runs: list[Run]) -> list[str]:
        records = finished_records(self.out)
        return [f"{'complete' if finished_run(run, records) else 'to do':8s}  {as_line(run)}" for run in runs]

    def _run_missing(self, runs: list[Run]) -> list[Record]:
        """The records of all runs; a subject is opened once, and only where one of its runs is missing."""
        finished = finished_records(self.out)
        found = {run: finished_run(run, finished) for run in runs}
        missing = together([run for run, record in found.items() if record is None])
        pace = _Pace(len(missing))
        made = []
        with crew(self.workers, self.ray) as workers:
            for name in dict.fromkeys(run.name for run in missing):
                subject = self.open(name)
                for run in [run for run in missing if run.name == name]:
                    pace.tell(as_line(run))
                    made += run.on(subject, as_line(run), lambda s=subject: prove_once(s), workers)
        return [record for record in found.values() if record is not None] + [read_record(path) for path in made]

    def _joined(self, source: Source, records: list[Record]) -> list[Record]:
        """The record of what is made of these runs; none where there is only one, which compares with nothing."""
        names = made_of(source, records)
        if len(names) < 2:
            return []
        if finished := finished_join(source, names, finished_records(self.out)):
            return [finished]
        paths = tuple(self.out / "runs" / name for name in names)
        of = next(record["analysis"] for record in records if record["name"] in names)
        command = with_options(Overlap, [source])(runs=paths, out=self.out, of=of)
        command(shlex.join(["crosslens", "overlap", *map(str, paths), "--of", of, "--out", str(self.out)]))
        return [r for r in [finished_join(source, names, finished_records(self.out))] if r]

    def _write_page(self, recipe: Content, records: list[Record], line: str) -> None:
        """What the report shows of the recipe: the figures in the paper's order, and the runs that have them."""
        if not recipe.figures:
            return
        from ..reports.pages.build import write_file

        said = {"title": recipe.title, "paper": recipe.paper, "states": recipe.states, "differs": recipe.differs}
        content = {**said, "command": line, "figures": figures_of(recipe, records)}
        instead = [str(value) for value in (self.subject, self.task, self.limit) if value is not None]
        name = "".join(c if c.isalnum() or c in ".-_" else "-" for c in "-".join([recipe.name, *instead]))
        write_file(self.out / "recipes" / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False).encode())


class _Pace:
    """Says which run of how many begins, and how long the others may take, at the pace of those behind."""

    def __init__(self, count: int) -> None:
        self.count, self.begun, self.began = count, 0, monotonic()

    def tell(self, line: str) -> None:
        left = ""
        if self.begun:
            pace = (monotonic() - self.began) / self.begun
            left = f", about {duration(pace * (self.count - self.begun))} left"
        self.begun += 1
        print(f"run {self.begun} of {self.count}{left}: {line}", file=sys.stderr, flush=True)
