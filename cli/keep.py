"""Commands that keep things on disk: cache (activations, lenses, converted files), export (an embedded subject)."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, subcommand

from ..data.errors import UserError
from ..data.progress import duration
from .model import OUT, OneModel, crew

if TYPE_CHECKING:
    from ..probes.runs.kept import Kept

ACTIONS = ("fill", "list", "prune")


@dataclass(frozen=True)
class Fill(OneModel):
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
    """Show what is kept (activations, learned lenses, converted GGUF files): how large, how old, of what."""

    def __call__(self) -> None:
        from ..probes.runs.kept import kept

        for one in kept():
            print(_line(one))


@dataclass(frozen=True)
class Prune:
    """Delete what was not written lately: activations, learned lenses, converted GGUF files; all can be made again.

    What a finished run in --out was made with stays, and is named.
    """

    keep_days: float = 30.0  # days that a directory has to be untouched
    out: Path = OUT
    named: bool = False  # also what finished runs name; they can then be proved no more until it is made again

    def __call__(self) -> None:
        from ..probes.runs.kept import kept
        from ..probes.runs.recipes import records_in

        records = list(records_in(self.out))
        for one in kept():
            if one.seconds <= self.keep_days * 86400:
                continue
            users = [record["name"] for record in records if one.is_named_in(record)]
            stays = bool(users) and not self.named
            said = f": {len(users)} finished runs name it, {users[0]} first" if users else ""
            print(f"{_line(one)}  {'stays' if stays else 'deleted'}{said}{'; --named deletes it too' if stays else ''}")
            if not stays:
                shutil.rmtree(one.directory)


@dataclass(frozen=True)
class Cache:
    """Keep chosen activations of a task on disk; list what the cache holds, or delete what is old."""

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


def _line(one: Kept) -> str:
    return f"{one.megabytes:8.1f} MB  {duration(one.seconds):>7}  {one.kind}  {one.of}  {one.directory}"
