"""Commands on finished runs: report, compare, overlap, circuit, verify."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..analyses.reading import read_analyses
from ..data.errors import UserError
from .model import OUT, modules_of, options_of


@dataclass(frozen=True)
class Report:
    """Build the pages from what was run; never runs a model."""

    out: Path = OUT
    static: bool = False  # also every figure as SVG, PNG and PDF (slow; needs kaleido and a Chromium)

    def __call__(self, line: str) -> None:
        from ..reports.pages.build import build

        pages = build(self.out, static=self.static)
        print(f"{len(pages)} pages; open {self.out / 'index.html'}")


@dataclass(frozen=True)
class Compare:
    """Put two runs of one analysis side by side: two models, two tasks, two revisions; or the same of several models.

    Runs no model.
    """

    runs: Positional[tuple[str, ...]] = ()  # run directories, or their names in --out
    out: Path = OUT

    def __call__(self, line: str) -> None:
        if len(self.runs) < 2:
            raise UserError("name two or more runs: crosslens compare reports/out/runs/ONE reports/out/runs/OTHER")
        from ..reports.pages.build import compare_page

        print(compare_page(self.runs, self.out))


@dataclass(frozen=True)
class Overlap:
    """How far tasks share their heads, from finished runs of `circuits` (or --of another); runs no model."""

    runs: Positional[tuple[Path, ...]] = ()  # by default every task's largest run in --out
    out: Path = OUT
    of: Literal["circuits", "highlighting", "lofit"] = "circuits"  # whose runs are compared
    bos: Literal["run", "yes", "no"] = "run"  # the condition that is compared, where runs have several

    def __call__(self, line: str) -> None:
        from ..probes.runs.join import finished, join
        from ..probes.runs.results import condition_of

        name = next(source.name for source in read_analyses().values() if self.of in source.needs)
        (module,) = modules_of([name]).values()
        runs = list(self.runs) or finished(self.out, self.of)
        print("\n".join(f"takes {path}" for path in runs), file=sys.stderr)
        condition = {"run": None, "yes": condition_of(True), "no": condition_of(False)}[self.bos]
        options = options_of(self, name, module)
        print(join(runs, name, module, options, self.out, line, condition))


@dataclass(frozen=True)
class Circuit:
    """Write a circuit of a finished run of edge_circuits as JSON that EAP-IG and MIB read; runs no model.

    An edge's score is larger the smaller the circuit that has it, from 10 to 1: as many ranks as circuits have sizes.
    """

    run: Positional[str] = ""  # a run's directory
    file: Positional[str] = ""  # where the JSON is written
    method: str = "5 steps"  # what ranked the edges, as the run's page names it
    ranking: Literal["helpful", "size"] = "helpful"  # edges that help most first, or of largest |effect|
    share: float = 0.05  # of all edges, one of the page's sizes

    def __call__(self, line: str) -> None:
        if not (self.run and self.file):
            raise UserError("name a run of edge_circuits and a file: crosslens circuit reports/out/runs/NAME one.json")
        from ..analyses.circuits._edge_saved import save_circuit
        from ..probes.runs.verify import open_run

        count = save_circuit(Path(self.file), open_run(Path(self.run)), self.method, self.ranking, self.share)
        print(f"{count} edges in the circuit; {self.file}")


@dataclass(frozen=True)
class Verify:
    """Prove a finished run again: record, shards, a sample of its rows, its tables."""

    run: Positional[str] = ""
    sample: int = 3  # shards that are computed again
    seed: int = 0  # of the sample
    subject: str | None = None  # where the model lies now, if it was moved
    adapter: str | None = None  # where its adapter lies now
    task: str | None = None  # where the task's file lies now
    device: str | None = None
    trust_remote_code: bool = False

    def __call__(self, line: str) -> None:
        if not self.run:
            raise UserError("name one run directory: crosslens verify reports/out/runs/NAME")
        from ..probes.model.loading import load
        from ..probes.runs.verify import open_run, task_of, verify

        record = open_run(Path(self.run))
        if "joined" in record:
            raise UserError(f"{self.run} is made of other runs: verify those ({', '.join(record['joined'])})")
        (module,) = modules_of([record["analysis"]]).values()
        was, again = record["subject"], record.get("reopen", {})
        subject = load(
            self.subject or record.get("location") or again.get("name") or was["name"],
            revision=None if self.subject else was["revision"],
            device=self.device or was["device"],
            dtype=was["dtype"],
            quantize=again.get("quantize"),
            adapter=self.adapter or again.get("adapter"),
            trust_remote_code=self.trust_remote_code,
        )
        verify(Path(self.run), subject, task_of(record, self.task), module, sample=self.sample, seed=self.seed)
