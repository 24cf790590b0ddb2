"""Commands that keep things on disk: cache (activations), export (an embedded subject)."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, subcommand

from ..data.errors import UserError
from .model import ModelFlags, crew

ACTIONS = ("fill", "list", "prune")


@dataclass(frozen=True)
class Fill(ModelFlags):
    """Run a task and keep activations."""

    subject: str = "smollm2"
    task: str = "ioi"
    limit: int | None = None
    seed: int = 0
    sites: tuple[str, ...] = ("resid_pre",)  # short names (all layers), or one layer: blocks.3.attn.hook_z
    positions: str = "last"  # last, all, a role, a mark, or a number: so many of every example
    plan: bool = False  # only say what would be done
    workers: int | None = None  # so many processes (or GPUs) share the batches; needs crosslens[cluster]
    ray: str | None = None  # the address of a Ray cluster whose nodes the workers are on

    def __call__(self) -> None:
        from ..data.tasks import open_task
        from ..probes.runs.activations import Options, cached, home, planned, size_of
        from ..probes.runs.run import Settings

        task, subject = open_task(self.task), self.open(self.subject)
        if self.plan:
            asked = Options(self.sites, self.positions), Settings(limit=self.limit, seed=self.seed)
            print("\n".join(planned(subject, task, *asked)))
            return
        size = size_of(subject, task, Options(self.sites, self.positions), self.limit, self.seed)
        print(f"at most {size / 1e6:,.1f} MB in {home()}", file=sys.stderr)
        try:
            with crew(self.workers, self.ray) as workers:
                size = {"limit": self.limit, "seed": self.seed}
                kept = cached(subject, task, self.sites, self.positions, **size, workers=workers)
        except KeyError as error:
            raise UserError(str(error.args[0])) from error
        print(kept.directory)


@dataclass(frozen=True)
class Listed:
    """Show what is kept, and how large it is."""

    def __call__(self) -> None:
        from ..probes.runs.activations import home

        for directory in sorted(home().glob("runs/*")):
            print(f"{_megabytes(directory):8.1f} MB  {directory}")


@dataclass(frozen=True)
class Prune:
    """Delete activations that were not used lately."""

    keep_days: float = 30.0  # days that a directory has to be untouched

    def __call__(self) -> None:
        from ..probes.runs.activations import home

        for directory in sorted(home().glob("runs/*")):
            if time.time() - directory.stat().st_mtime > self.keep_days * 86400:
                print(f"{_megabytes(directory):8.1f} MB  deleted {directory}")
                shutil.rmtree(directory)


@dataclass(frozen=True)
class Cache:
    """Keep chosen activations of a task on disk, list them, or delete old ones."""

    action: OmitArgPrefixes[
        Annotated[Fill, subcommand("fill", prefix_name=False)]
        | Annotated[Listed, subcommand("list", prefix_name=False)]
        | Annotated[Prune, subcommand("prune", prefix_name=False)]
    ] = field(default_factory=Listed)

    def __call__(self, line: str) -> None:
        self.action()


@dataclass(frozen=True)
class Export:
    """Write an embedded subject as a Hugging Face directory that any other tool loads."""

    subject: Positional[str] = ""
    directory: Positional[str] = ""

    def __call__(self, line: str) -> None:
        if not (self.subject and self.directory):
            raise UserError("name an embedded subject and a new directory: crosslens export scenes DIR")
        from ..probes.model.loading import export

        print(export(self.subject, Path(self.directory)))


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6
