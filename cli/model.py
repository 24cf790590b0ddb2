"""Commands that run a model: run, show, check. torch is imported when they are called, not when help is asked for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import partial
from inspect import getdoc
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self

from tyro.conf import Positional

from ..analyses import find_analyses
from ..analyses.reading import Source, read_analyses
from ..data.errors import UserError
from ..data.subjects import EMBEDDED
from ..data.tasks import open_task
from ..probes.runs.remembered import is_proved, prove_once, remember_subject

if TYPE_CHECKING:
    from ..probes.model.subject import Subject
    from ..probes.runs.workers import Workers

OUT = Path("reports/out")
BOS = {"task": None, "yes": (True,), "no": (False,), "both": (True, False)}


@dataclass(frozen=True)
class ModelFlags:
    """How a model is opened."""

    device: str = "auto"  # auto: a GPU where there is one; map: spread over several; or torch's name
    dtype: str = "auto"  # auto: the checkpoint's on a GPU, float32 on a CPU; or torch's name
    quantize: Literal["int8", "nf4"] | None = None  # linear layers' weights in 8 or 4 bits; needs crosslens[quantized]
    adapter: str | None = None  # a directory or hub id of peft's, put into the model; needs crosslens[adapters]
    trust_remote_code: bool = False  # whether code in a checkpoint may run

    def open(self, name: str) -> Subject:
        """The subject of that name, not yet proved."""
        from transformers.utils import logging

        from ..probes.model.loading import load

        logging.disable_progress_bar()
        subject = load(name, check=False, **self.model_flags)
        if name not in EMBEDDED:  # whose weights are known
            remember_subject(subject, name, self.model_flags)
        return subject

    def is_too_large(self, name: str) -> bool:
        """Whether the weights alone are more than what is free, with one line on stderr that says so."""
        from ..probes.model.loading import shortage
        from ..probes.model.naming import require_subject

        require_subject(name)
        if line := shortage(name, **self.model_flags):
            print(f"crosslens: {line}", file=sys.stderr)
        return bool(line)

    @property
    def model_flags(self) -> dict[str, Any]:
        """How a model is opened, by name."""
        return {one.name: getattr(self, one.name) for one in fields(ModelFlags)}


@dataclass(frozen=True)
class OneModel(ModelFlags):
    """How one model is opened."""

    revision: str | None = None  # of a hub id

    @property
    def model_flags(self) -> dict[str, Any]:
        return super().model_flags | {"revision": self.revision}


@dataclass(frozen=True)
class Run(ModelFlags):
    """Run analyses on one or more subjects and tasks; finished work is never repeated.

    `crosslens run sinks -h` shows the options of an analysis, `crosslens list` the analyses, tasks and subjects.
    Several subjects or revisions (checkpoints of one training) are put side by side on a page.
    """

    analyses: Positional[tuple[str, ...]] = ()  # those that observe ride one forward
    subject: tuple[str, ...] = ("smollm2",)  # embedded ones, hub ids, directories, .gguf files, checkpoints
    revision: tuple[str, ...] = ()  # of a hub id
    task: tuple[str, ...] = ()  # as in the list, with options behind a colon: colored_objects:shots=2
    limit: int | None = None  # examples; by default the task's own number
    seed: int = 0
    bos: Literal["task", "yes", "no", "both"] = "task"  # whether a BOS stands before every prompt
    template: str | None = None  # raw, chat or 'USER: {image}\n{question} ASSISTANT:'; by default the task's own
    batch_tokens: int = 4096  # padded positions of a batch
    batch_size: int | None = None  # examples of a batch at most
    padding: Literal["right", "left"] = "right"
    skip_broken: bool = False  # rows of a file that cannot be read or shown are left out, counted and named
    answer_tokens: int = 0  # the model's own answer, so long at most, is put behind every prompt
    out: Path = OUT
    plan: bool = False  # only say what would be done
    workers: int | None = None  # so many processes (or GPUs) share the batches; needs crosslens[cluster]
    ray: str | None = None  # the address of a Ray cluster whose nodes the workers are on

    def __call__(self, line: str) -> None:
        from ..probes.model.naming import require_subject

        self.require_names()
        models = self.each_model()
        for run in models[1:]:
            require_subject(run.name)  # before the first one is run
        made: list[Path] = []
        opened: list[dict[str, Any]] = []
        with crew(self.workers, self.ray) as workers:
            for run in models:
                if run.is_too_large(run.name) and run.plan:
                    continue  # that line is the plan
                subject = run.open(run.name)
                _require_shape(opened, subject)
                own = line if len(models) == 1 else as_line(run)
                made += run.on(subject, own, partial(prove_once, subject), workers)
        if len(models) > 1 and made:
            _side_by_side(made, self.out)

    def each_model(self) -> list[Self]:
        """One command for each subject and each revision."""
        revisions = [(one,) for one in self.revision] or [()]
        return [replace(self, subject=(name,), revision=one) for name in self.subject for one in revisions]

    @property
    def name(self) -> str:
        """The subject of a command of one."""
        (name,) = self.subject
        return name

    @property
    def model_flags(self) -> dict[str, Any]:
        return super().model_flags | {"revision": next(iter(self.revision), None)}

    def require_names(self) -> None:
        """UserError: no analysis, one that runs no model, no task, an unknown one, or nothing to run on."""
        if not self.analyses:
            raise UserError(f"name at least one analysis: {', '.join(find_analyses())}")
        for name in self.analyses:
            if needed := read_analyses()[name].needs:
                raise UserError(
                    f"{name} is made of finished runs of {' or '.join(needed)}: crosslens overlap --of {needed[0]}"
                )
        if not self.task:
            raise UserError("name at least one task: --task ioi (crosslens list shows all)")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: at least one example is needed")
        if not self.subject:
            raise UserError("name at least one subject: --subject smollm2")
        for name in self.subject:
            if self.revision and (name in EMBEDDED or Path(name).exists()):
                raise UserError(f"--revision {self.revision[0]}: {name} has none; only hub ids owner/name have")
        for spec in self.task:
            open_task(spec)

    def on(self, subject: Subject, line: str, prove: Callable[[], Any], workers: Workers | None = None) -> list[Path]:
        """Run on an open subject; returns the run directories and prints them.

        line: the command that the page names. prove: called before the first forward, where there is one. workers: who
        computes the batches, where not this process does.
        """
        from ..probes.runs.preview import preview
        from ..probes.runs.run import run as run_analyses
        from ..probes.runs.store import read_record

        analyses = {name: (m, options_of(self, name, m)) for name, m in modules_of(self.analyses).items()}
        directories: list[Path] = []
        for task in map(open_task, self.task):
            if self.plan:
                print("\n".join(preview(subject, task, analyses, self._settings(line), proved=is_proved(subject))))
                continue
            for directory in run_analyses(subject, task, analyses, self._settings(line), before=prove, workers=workers):
                if why := (read_record(directory) or {}).get("nothing"):
                    print(f"nothing to measure: {why}", file=sys.stderr)
                print(directory)
                directories.append(directory)
        return directories

    @property
    def form(self) -> str | None:
        """The prompts' template, its \\n a new line."""
        return self.template and self.template.replace("\\n", "\n")

    def _settings(self, line: str) -> Any:
        from ..probes.runs.run import Settings

        same = ("limit", "seed", "padding", "answer_tokens", "skip_broken", "out")
        sizes = {"tokens": self.batch_tokens, "size": self.batch_size, "template": self.form}
        return Settings(bos=BOS[self.bos], command=line, **sizes, **{name: getattr(self, name) for name in same})


def _require_shape(before: list[dict[str, Any]], subject: Subject) -> None:
    """Add what was opened to `before`. UserError: a checkpoint of another shape than those of its training."""
    from ..reports.pages.steps import SHAPE, called, unlike_shape

    facts = {name: getattr(subject, name) for name in ("name", "revision", *SHAPE)}
    for other in before:
        if why := unlike_shape(other, facts):
            raise UserError(f"{called(other)} and {called(facts)}: {why}; run them apart")
    before.append(facts)


def _side_by_side(made: Sequence[Path], out: Path) -> None:
    """Print the page of every analysis and task that several of these runs have."""
    from ..reports.pages.build import compare_page
    from ..reports.pages.series import alike

    for names in alike(made):
        print(compare_page(names, out))


def crew(count: int | None, address: str | None) -> AbstractContextManager[Workers | None]:
    """The workers that are asked for, nobody where none are. A cluster whose size is not said has one worker."""
    if count is None and address is None:
        return nullcontext()
    from ..probes.runs.workers import Workers

    return Workers(1 if count is None else count, address)


@dataclass(frozen=True)
class Show(OneModel):
    """One prompt, one page: crosslens show lenses "The capital of France is"."""

    analysis: Positional[str] = ""
    prompt: Positional[str] = ""
    subject: str = "smollm2"
    bos: bool | None = None  # whether a BOS stands before the prompt; by default what the tokenizer does
    out: Path = OUT

    def __call__(self, line: str) -> None:
        if not (self.analysis and self.prompt):
            raise UserError('name an analysis and a prompt: crosslens show lenses "The capital of France is"')
        (module,) = modules_of([self.analysis]).values()
        if not hasattr(module, "show"):
            raise UserError(f"analysis {self.analysis} has no view of a single prompt")
        from ..reports.pages.build import show_page
        from ..reports.pages.page import drawer

        subject = self.open(self.subject)
        prove_once(subject)
        batch = subject.batch([self.prompt], bos=self.bos)
        tables = module.show(subject, batch, options_of(self, self.analysis, module))
        title = f"{self.analysis}: {self.prompt}"
        print(show_page(drawer(self.analysis)(tables), self.out / f"show-{self.analysis}.html", title=title))


@dataclass(frozen=True)
class Check(OneModel):
    """Prove the instruments on a model: every proof, how far it was from failing, and a page of them."""

    subject: Positional[str] = "smollm2"
    layers: bool = False  # a table of all layers besides: the proof that came closest to failing in each
    out: Path = OUT

    def __call__(self, line: str) -> None:
        from ..probes.runs.store import safe_name
        from ..reports.pages.checks import by_layer, check_page, summary

        subject = self.open(self.subject)
        proofs = subject.check()
        print(summary(proofs).to_string(index=False))
        each = by_layer(proofs)
        if self.layers:
            print(each.to_string(index=False))
        worst = each.iloc[int(each["share"].argmax())]
        print(f"closest to its limit: {worst['where']}: {worst['check']}, {worst['value']:.2g} of {worst['limit']:.2g}")
        kind = f"{subject.family}, {subject.n_layers} layers, {subject.dtype} on {subject.device}"
        note = f"{kind}, weights {subject.fingerprint}"
        path = self.out / f"check-{safe_name(subject.name, 80)}.html"
        print(check_page(proofs, path, f"Proofs of {subject.name}", note))


def modules_of(names: Sequence[str]) -> dict[str, ModuleType]:
    """The named analyses, imported."""
    from ..analyses.contract import open_analysis

    return {name: open_analysis(name) for name in names}


def with_options(command: type, sources: Iterable[Source]) -> type:
    """`command` with a field for each analysis, `--NAME.OPTION` on the command line; its text says what they do."""
    sources = list(sources)
    if not sources:
        return command
    extra = [(source.name, source.Options, field(default=source.Options())) for source in sources]
    extended = make_dataclass(command.__name__, extra, bases=(command,), frozen=True)
    extended.__module__ = command.__module__  # where the texts of its flags are found
    extended.__doc__ = "\n\n".join([getdoc(command) or "", *(source.doc for source in sources)])
    return extended


def options_of(command: Any, name: str, module: ModuleType) -> Any:
    """The analysis' own `Options` with the values of the flags."""
    read = getattr(command, name)
    return module.Options(**{one.name: getattr(read, one.name) for one in fields(read)})


def as_line(command: Run) -> str:
    """The command line that asks for `command`: what differs from the defaults."""
    return shlex.join(["crosslens", "run", *command.analyses, *_flags(command, "--")])


def _flags(values: Any, prefix: str) -> list[str]:
    words = []
    for one in fields(values):
        value = getattr(values, one.name)
        if one.name == "analyses" or value == one.default:
            continue
        name = one.name.replace("_", "-")
        if hasattr(value, "__dataclass_fields__"):
            words += _flags(value, f"{prefix}{one.name}.")
        elif isinstance(value, bool):
            words.append(f"{prefix}{name}" if value else f"{prefix}no-{name}")
        else:
            flag = f"{prefix}{name}"
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words
