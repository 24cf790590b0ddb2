"""The command line: run analyses, make the report, look at one prompt, keep activations."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from functools import cache as cache_once
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import tyro

from .analyses import find_analyses
from .data.errors import UserError

OUT = Path("reports/out")
HELP = """crosslens: from a model and a task to tables and interactive figures

  crosslens run A [B …] --task T [U …]          run analyses on one forward; finished work is never repeated
  crosslens report [--out DIR]                 build the pages from what was run
  crosslens overlap [RUN RUN …]                compare the circuits of two or more tasks, from finished runs
  crosslens show A "PROMPT" --subject S        one prompt, one page
  crosslens check SUBJECT                      prove the instruments on a model
  crosslens verify RUN                         compute a sample of a finished run again and compare
  crosslens cache fill|list|prune              keep activations for notebooks and probes
  crosslens export SUBJECT DIR                 an embedded subject as a Hugging Face directory
  crosslens list                               subjects, tasks and analyses

`crosslens COMMAND --help` explains a command and, after `run A`, the options of analysis A.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A user's mistake is one line on stderr and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # The answer to a user's command is not a page of other libraries' notices.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    commands = {
        "run": run,
        "overlap": overlap,
        "report": report,
        "show": show,
        "check": check,
        "verify": verify,
        "cache": cache,
        "export": export,
        "list": listing,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return
    if words[0] not in commands:
        sys.exit(_complain(f"unknown command {words[0]!r}: one of {', '.join(commands)}"))
    try:
        commands[words[0]](words[1:])
    except KeyboardInterrupt:
        sys.exit(_complain("stopped; what is done is kept, the same command goes on", 130))
    except UserError as error:
        sys.exit(_complain(str(error)))


def _complain(line: str, code: int = 2) -> int:
    print(f"crosslens: {line}", file=sys.stderr)
    return code


def _analyses(names: Sequence[str]) -> dict[str, ModuleType]:
    if not names:
        raise UserError(f"name at least one analysis: {', '.join(find_analyses())}")
    from .analyses.contract import open_analysis

    return {name: open_analysis(name) for name in names}


def _parse(prog: str, words: Sequence[str], fields: dict[str, tuple[Any, Any]], doc: str) -> Any:
    """Flags for `fields` (name -> type and default) as an object."""
    made = make_dataclass("Arguments", [(n, t, field(default=d)) for n, (t, d) in fields.items()], frozen=True)
    made.__doc__ = doc
    return tyro.cli(made, args=list(words), prog=f"crosslens {prog}", description=doc)


MODEL: dict[str, tuple[Any, Any]] = {
    "subject": (str, "smollm2"),
    "revision": (str | None, None),
    "device": (str, "auto"),
    "dtype": (str, "auto"),
    "trust_remote_code": (bool, False),
}


def _load(asked: Any) -> Any:
    from transformers.utils import logging

    from .probes.model.loading import load

    logging.disable_progress_bar()

    return load(
        asked.subject,
        revision=asked.revision,
        device=asked.device,
        dtype=asked.dtype,
        check=False,
        trust_remote_code=asked.trust_remote_code,
    )


def run(words: Sequence[str]) -> None:
    """Run analyses on a subject and one or more tasks; finished work is never repeated."""
    names, flags = _split(words)
    modules = _analyses(names)
    fields = {
        **MODEL,
        "task": (tuple[str, ...], tyro.MISSING),
        "limit": (int | None, None),
        "seed": (int, 0),
        "bos": (Literal["task", "yes", "no", "both"], "task"),
        "template": (str | None, None),
        "batch_tokens": (int, 4096),
        "batch_size": (int | None, None),
        "padding": (Literal["right", "left"], "right"),
        "answer_tokens": (int, 0),
        "out": (Path, OUT),
        "plan": (bool, False),
        **{name: (module.Options, module.Options()) for name, module in modules.items()},
    }
    asked = _parse(f"run {' '.join(names)}", flags, fields, "\n\n".join(getdoc(m) or "" for m in modules.values()))
    from .data.tasks import open_task
    from .probes.runs.run import Settings, preview
    from .probes.runs.run import run as run_analyses
    from .probes.runs.store import read_record

    if asked.limit is not None and asked.limit < 1:
        raise UserError(f"--limit {asked.limit}: at least one example is needed")
    tasks = [open_task(spec) for spec in asked.task]
    subject = _load(asked)
    settings = Settings(
        limit=asked.limit,
        seed=asked.seed,
        bos={"task": None, "yes": (True,), "no": (False,), "both": (True, False)}[asked.bos],
        template=asked.template,
        tokens=asked.batch_tokens,
        size=asked.batch_size,
        padding=asked.padding,
        answer_tokens=asked.answer_tokens,
        out=asked.out,
        command=shlex.join(["crosslens", "run", *words]),
    )
    analyses = {name: (module, getattr(asked, name)) for name, module in modules.items()}
    prove = cache_once(subject.check)
    for task in tasks:
        if asked.plan:
            print("\n".join(preview(subject, task, analyses, settings)))
            continue
        for directory in run_analyses(subject, task, analyses, settings, before=prove):
            if why := (read_record(directory) or {}).get("nothing"):
                print(f"nothing to measure: {why}", file=sys.stderr)
            print(directory)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names before the first flag, and the flags."""
    at = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:at]), list(words[at:])


def overlap(words: Sequence[str]) -> None:
    """How far tasks share their circuits, from finished runs of `circuits`; runs no model."""
    names, flags = _split(words)
    from .analyses.circuits import overlap as module
    from .probes.runs.join import finished, join
    from .probes.runs.results import condition_of

    fields = {
        "out": (Path, OUT),
        "bos": (Literal["run", "yes", "no"], "run"),
        "overlap": (module.Options, module.Options()),
    }
    asked = _parse("overlap", flags, fields, getdoc(module) or "")
    runs = [Path(name) for name in names] or finished(asked.out, *module.NEEDS)
    print("\n".join(f"takes {path}" for path in runs), file=sys.stderr)
    condition = {"run": None, "yes": condition_of(True), "no": condition_of(False)}[asked.bos]
    command = shlex.join(["crosslens", "overlap", *words])
    print(join(runs, "overlap", module, asked.overlap, asked.out, command, condition))


def report(words: Sequence[str]) -> None:
    """Build the pages and the gallery from the run directories."""
    asked = _parse("report", words, {"out": (Path, OUT), "static": (bool, False)}, "Build the pages from what was run.")
    from .reports.pages.build import build

    pages = build(asked.out, static=asked.static)
    print(f"{len(pages)} pages; open {asked.out / 'index.html'}")


def show(words: Sequence[str]) -> None:
    """One prompt, one page."""
    names, flags = _split(words)
    if len(names) != 2:
        raise UserError('name an analysis and a prompt: crosslens show lenses "The capital of France is"')
    name, prompt = names
    (module,) = _analyses([name]).values()
    fields = {**MODEL, "bos": (bool | None, None), "out": (Path, OUT), name: (module.Options, module.Options())}
    asked = _parse(f"show {name}", flags, fields, getdoc(module) or "")
    if not hasattr(module, "show"):
        raise UserError(f"analysis {name} has no view of a single prompt")
    from .reports.pages.build import show_page

    subject = _load(asked)
    subject.check()
    tables = module.show(subject, subject.batch([prompt], bos=asked.bos), getattr(asked, name))
    figures = import_module(f".reports.figures.{name}", __package__).figures(tables)
    path = show_page(figures, asked.out / f"show-{name}.html", title=f"{name}: {prompt}")
    print(path)


def check(words: Sequence[str]) -> None:
    """Prove the instruments on a model."""
    names, flags = _split(words)
    fields = MODEL | {"subject": (str, (names or ["smollm2"])[0]), "out": (Path, OUT)}
    asked = _parse("check", flags, fields, "Prove the instruments.")
    from .probes.runs.store import safe_name
    from .reports.pages.checks import check_page, summary

    subject = _load(asked)
    proofs = subject.check()
    print(summary(proofs).to_string(index=False))
    kind = f"{subject.family}, {subject.n_layers} layers, {subject.dtype} on {subject.device}"
    note = f"{kind}, weights {subject.fingerprint}"
    path = asked.out / f"check-{safe_name(subject.name, 80)}.html"
    print(check_page(proofs, path, f"Proofs of {subject.name}", note))


def verify(words: Sequence[str]) -> None:
    """Prove a finished run again: record, shards, a sample of its rows, its tables."""
    names, flags = _split(words)
    if len(names) != 1:
        raise UserError("name one run directory: crosslens verify reports/out/runs/NAME")
    fields = {
        "sample": (int, 3),
        "seed": (int, 0),
        "subject": (str | None, None),
        "device": (str | None, None),
        "trust_remote_code": (bool, False),
    }
    asked = _parse("verify RUN", flags, fields, "Compute a sample of a finished run again and compare.")
    from .probes.model.loading import load
    from .probes.runs.verify import open_run, task_of
    from .probes.runs.verify import verify as prove

    record = open_run(Path(names[0]))
    if "joined" in record:
        raise UserError(f"{names[0]} is made of other runs: verify those ({', '.join(record['joined'])})")
    (module,) = _analyses([record["analysis"]]).values()
    made = record["subject"]
    subject = load(
        asked.subject or made["name"],
        revision=None if asked.subject else made["revision"],
        device=asked.device or made["device"],
        dtype=made["dtype"],
        trust_remote_code=asked.trust_remote_code,
    )
    prove(Path(names[0]), subject, task_of(record), module, sample=asked.sample, seed=asked.seed)


def cache(words: Sequence[str]) -> None:
    """Keep chosen activations of a task on disk, list them, or delete old ones."""
    from .probes.runs import activations as kept

    kept.command(words, _parse, MODEL, _load)


def export(words: Sequence[str]) -> None:
    """Write an embedded subject as a Hugging Face directory that any other tool loads."""
    names, flags = _split(words)
    if len(names) != 2 or flags:
        raise UserError("name an embedded subject and a new directory: crosslens export scenes DIR")
    from .probes.model.loading import export as write

    print(write(names[0], Path(names[1])))


def listing(words: Sequence[str]) -> None:
    """Subjects, tasks and analyses."""
    from .data.tasks import open_task, task_names
    from .probes.model.loading import EMBEDDED

    print("subjects   " + ", ".join(EMBEDDED) + "; or a hub id, a directory, a .gguf file")
    for name in task_names():
        print(f"task       {name:18s}{open_task(name).title}")
    for name, module in _analyses([*find_analyses()]).items():
        print(f"analysis   {name:18s}{(module.__doc__ or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
